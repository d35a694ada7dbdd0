"""What the HTTP server needs of the site manager about the trash and about jobs that move data.

May live here: the `MovesService` protocol, a part of vimraft.api.service.Service.
"""

from typing import Protocol

from vimraft.api.schema import JobReply, VolumeReply
from vimraft.api.schema_moves import (
    JobsReply,
    MigrateRequest,
    ReadOnlyRequest,
    RestoreRequest,
    SaveRequest,
    TrashReply,
)


class MovesService(Protocol):
    async def delete(
        self, name: str, *, purge: bool, force: bool, who: str, request_id: str | None
    ) -> VolumeReply:
        """Into the trash, where there is one. `purge`: for good. `force`: although clients are attached."""
        ...

    async def trash(self) -> TrashReply: ...

    async def restore(
        self, trash_id: int, request: RestoreRequest, *, who: str, request_id: str | None
    ) -> VolumeReply: ...

    async def purge(self, trash_id: int, *, who: str, request_id: str | None) -> VolumeReply: ...

    async def set_read_only(
        self, name: str, request: ReadOnlyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply: ...

    async def drain_real(self, storage: str, lun: int, *, who: str, request_id: str | None) -> JobReply: ...

    async def drain_site(self, name: str, *, who: str) -> JobReply: ...

    async def migrate(self, name: str, request: MigrateRequest, *, who: str) -> JobReply: ...

    async def save(self, name: str, request: SaveRequest, *, who: str) -> JobReply: ...

    async def jobs(self, *, passed: bool) -> JobsReply:
        """`passed`: only those of this manager."""
        ...

    async def cancel_job(self, job_id: str, *, who: str) -> JobReply: ...
