"""What the HTTP server needs of the site manager: the port between `api` and `site`.

May live here: the `Service` protocol. Every method may raise ApiFault, LogError or what they wrap.
"""

from typing import Protocol

from vimraft.api.schema import (
    AddRealRequest,
    BuildRequest,
    DoneReply,
    EventsReply,
    GrowRequest,
    Heartbeat,
    HistoryReply,
    JobReply,
    JoinReply,
    JoinRequest,
    MapReply,
    MembersReply,
    PriorityRequest,
    SetRealRequest,
    SettingRequest,
    StatusReply,
    StorageRequest,
    TableReply,
    UriReply,
    VolumeReply,
)
from vimraft.api.schema_meta import BackupsReply, MetaStatusReply, UpgradeReply, UpgradeRequest
from vimraft.api.service_copies import CopiesService
from vimraft.api.service_moves import MovesService
from vimraft.api.service_verify import VerifyService


class Service(MovesService, CopiesService, VerifyService, Protocol):
    token: str
    """Bearer token that every call but `health` must show."""

    async def status(self) -> StatusReply: ...

    async def table(
        self, which: str, *, name: str | None, offset: int, limit: int, at: int | None = None
    ) -> TableReply: ...

    async def volume(self, name: str) -> VolumeReply: ...

    async def volume_map(self, name: str, at: int | None = None) -> MapReply: ...

    async def volume_uri(self, name: str, site: str | None) -> UriReply: ...

    async def build(self, request: BuildRequest, *, who: str, request_id: str | None) -> VolumeReply: ...

    async def grow(
        self, name: str, request: GrowRequest, *, who: str, request_id: str | None
    ) -> VolumeReply: ...

    async def set_storage(
        self, request: StorageRequest, *, who: str, request_id: str | None
    ) -> DoneReply: ...

    async def remove_storage(self, address: str, *, who: str, request_id: str | None) -> DoneReply: ...

    async def add_real(self, request: AddRealRequest, *, who: str) -> JobReply: ...

    async def set_real(
        self, storage: str, lun: int, request: SetRealRequest, *, who: str, request_id: str | None
    ) -> DoneReply: ...

    async def remove_real(self, storage: str, lun: int, *, who: str, request_id: str | None) -> DoneReply: ...

    async def job(self, job_id: str) -> JobReply: ...

    async def set_priority(
        self, site: str, request: PriorityRequest, *, who: str, request_id: str | None
    ) -> DoneReply: ...

    async def set_setting(
        self, name: str, request: SettingRequest, *, who: str, request_id: str | None
    ) -> DoneReply: ...

    async def events(self, *, after: int, limit: int) -> EventsReply: ...

    async def history(self, *, limit: int) -> HistoryReply: ...

    async def members(self) -> MembersReply: ...

    async def join(self, request: JoinRequest, *, who: str, passed: bool) -> JoinReply:
        """`passed`: another manager has passed this call on; do it here."""
        ...

    async def promote(self, name: str, *, who: str, passed: bool) -> DoneReply: ...

    async def remove_manager(
        self, name: str, *, force: bool, who: str, request_id: str | None, passed: bool
    ) -> DoneReply: ...

    async def meta_status(self) -> MetaStatusReply: ...

    async def upgrade(self, request: UpgradeRequest, *, who: str, request_id: str | None) -> UpgradeReply: ...

    async def backup(self, *, who: str) -> bytes:
        """The content of a backup file (vimraft.metadata.backup)."""
        ...

    async def backups(self) -> BackupsReply: ...

    async def heartbeat(self, beat: Heartbeat) -> None: ...

    def metrics(self) -> bytes: ...
