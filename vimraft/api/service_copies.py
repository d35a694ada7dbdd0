"""What the HTTP server needs of the site manager about copies and owners of volumes.

May live here: the `CopiesService` protocol, a part of vimraft.api.service.Service.
"""

from typing import Protocol

from vimraft.api.schema import DoneReply, VolumeReply
from vimraft.api.schema_copies import (
    AddCopyRequest,
    ForceLostRequest,
    MoveOwnerRequest,
    PauseCopyRequest,
    ReadPolicyRequest,
)


class CopiesService(Protocol):
    async def add_copy(
        self, name: str, request: AddCopyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply: ...

    async def remove_copy(self, name: str, copy: str, *, who: str, request_id: str | None) -> VolumeReply: ...

    async def pause_copy(
        self, name: str, copy: str, request: PauseCopyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply: ...

    async def set_read_policy(
        self, name: str, request: ReadPolicyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply: ...

    async def move_owner(self, name: str, request: MoveOwnerRequest, *, who: str) -> VolumeReply:
        """Done by the manager that owns the volume; another one passes the call on."""
        ...

    async def force_lost(
        self, request: ForceLostRequest, *, who: str, request_id: str | None
    ) -> DoneReply: ...
