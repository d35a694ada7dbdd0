"""The part of `fake_site.FakeService` about copies and owners."""

from typing import Any

from msgspec.structs import replace

from tests.fake_part import FakePart
from vimraft.api import schema as s
from vimraft.api.errors import Refused
from vimraft.api.errors_copies import AnswersStill, OneCopyOnly
from vimraft.api.schema_copies import (
    AddCopyRequest,
    CopyProgress,
    ForceLostRequest,
    MoveOwnerRequest,
    PauseCopyRequest,
    ReadPolicyRequest,
)
from vimraft.core.reasons import LastCopy, NotFound

MIB = 1 << 20


def progress(name: str, left_mib: int, total_mib: int = 64, **changes: Any) -> CopyProgress:
    base = CopyProgress(
        name=name,
        phase="copying",
        left_bytes=left_mib * MIB,
        total_bytes=total_mib * MIB,
        copied_bytes=(total_mib - left_mib) * MIB,
        rate_bytes_s=8.0 * MIB,
        eta_seconds=left_mib / 8,
    )
    return replace(base, **changes)


def copy(name: str, site: str, state: str = "in_sync", **changes: Any) -> s.ReplicaStatus:
    return replace(s.ReplicaStatus(local_name=name, state=state, sites=(site,), segments=1), **changes)


class FakeCopies(FakePart):
    """A copy that syncs gets nearer with every look."""

    def put(self, found: s.VolumeStatus) -> s.VolumeReply:
        """In the place of the one of the same name."""
        volumes = tuple(found if v.name == found.name else v for v in self.reply.volumes)
        self.reply = replace(self.reply, volumes=volumes)
        return self._volume_reply(found)

    def nearer(self, found: s.VolumeStatus) -> s.VolumeStatus:
        replicas = tuple(self._nearer(r) for r in found.replicas)
        after = replace(found, replicas=replicas)
        self.put(after)
        return after

    @staticmethod
    def _nearer(row: s.ReplicaStatus) -> s.ReplicaStatus:
        if row.paused or row.state not in ("stale", "syncing"):
            return row
        now = row.progress
        if now is None:
            return replace(row, state="syncing", progress=progress(row.local_name, 64))
        if now.left_bytes == 0:
            return replace(row, state="in_sync", progress=None)
        return replace(row, progress=replace(now, left_bytes=now.left_bytes // MIB // 4 * MIB))

    def _replica(self, found: s.VolumeStatus, name: str) -> s.ReplicaStatus:
        for row in found.replicas:
            if row.local_name == name:
                return row
        raise Refused(NotFound("copy", name, tuple(r.local_name for r in found.replicas)))

    async def add_copy(
        self, name: str, request: AddCopyRequest, *, who: str, request_id: str | None
    ) -> s.VolumeReply:
        self._note("add_copy", (name, request), request_id)
        found = self._found(name)
        where = request.sites[0] if request.sites else "nagoya"
        new = copy("Z", where, "stale")
        return self.put(replace(found, replicas=(*found.replicas, new), epoch=found.epoch + 1))

    async def remove_copy(self, name: str, copy: str, *, who: str, request_id: str | None) -> s.VolumeReply:
        self._note("remove_copy", (name, copy), request_id)
        found = self._found(name)
        gone = self._replica(found, copy)
        if [r for r in found.replicas if r.state == "in_sync"] == [gone]:
            raise Refused(LastCopy((name,)))
        return self.put(replace(found, replicas=tuple(r for r in found.replicas if r is not gone)))

    async def pause_copy(
        self, name: str, copy: str, request: PauseCopyRequest, *, who: str, request_id: str | None
    ) -> s.VolumeReply:
        self._note("pause_copy", (name, copy, request.paused), request_id)
        found = self._found(name)
        row = self._replica(found, copy)
        paused = replace(row, paused=request.paused)
        return self.put(replace(found, replicas=tuple(paused if r is row else r for r in found.replicas)))

    async def set_read_policy(
        self, name: str, request: ReadPolicyRequest, *, who: str, request_id: str | None
    ) -> s.VolumeReply:
        self._note("set_read_policy", (name, request.policy), request_id)
        return self.put(replace(self._found(name), read_policy=request.policy))

    async def move_owner(self, name: str, request: MoveOwnerRequest, *, who: str) -> s.VolumeReply:
        self._note("move_owner", (name, request.manager), None)
        found = self._found(name)
        if len(found.replicas) == 1:
            raise OneCopyOnly(name, request.manager)
        return self.put(replace(found, owner=request.manager, epoch=found.epoch + 1))

    async def force_lost(self, request: ForceLostRequest, *, who: str, request_id: str | None) -> s.DoneReply:
        if request.name == "tokyo":
            raise AnswersStill("tokyo")
        return self._done("force_lost", (request.name, request.accept_loss), request_id)
