"""What the HTTP server needs of the site manager about comparing the copies of a volume.

May live here: the `VerifyService` protocol, a part of vimraft.api.service.Service.
"""

from typing import Protocol

from vimraft.api.schema import JobReply
from vimraft.api.schema_verify import VerifyRequest, VerifyStep, VerifyStepReply


class VerifyService(Protocol):
    async def verify(self, name: str, request: VerifyRequest, *, who: str) -> JobReply: ...

    async def verify_step(self, name: str, step: VerifyStep) -> VerifyStepReply:
        """By the manager that owns the volume."""
        ...
