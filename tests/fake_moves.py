"""The part of `fake_site.FakeService` about the trash and about jobs that move data."""

from typing import Any

from msgspec.structs import replace

from tests.fake_part import FakePart
from vimraft.api import schema as s
from vimraft.api import schema_moves as mv
from vimraft.api import schema_verify as vf
from vimraft.api.errors import Refused
from vimraft.core.reasons import NotFound

NOW_MS = 1_790_000_000_000
HOUR_MS = 3_600_000
GIB = 1 << 30


class FakeMoves(FakePart):
    jobs_known: dict[str, list[s.JobReply]]
    in_trash: dict[int, s.VolumeStatus]
    found = vf.VerifyReport("pair", 1 << 20, 8, 8, 8, 0, 0, 0, True, (), ())
    """By a comparison of copies."""

    async def delete(
        self, name: str, *, purge: bool, force: bool, who: str, request_id: str | None
    ) -> s.VolumeReply:
        self._note("delete", (name, purge, force), request_id)
        found = self._found(name)
        self.reply = replace(self.reply, volumes=tuple(v for v in self.reply.volumes if v.name != name))
        gone = self._volume_reply(found)
        if purge:
            return gone
        trash_id = 1000 + len(self.in_trash)
        self.in_trash[trash_id] = found
        return replace(gone, trash_id=trash_id)

    async def trash(self) -> mv.TrashReply:
        rows = tuple(
            mv.TrashedVolume(
                id=trash_id, name=v.name, size_bytes=v.size_bytes, volume_class=v.volume_class,
                copies=len(v.replicas), held_bytes=v.size_bytes, sites=v.sites, owner=v.owner,
                trashed_ms=NOW_MS, purged_ms=NOW_MS + 72 * HOUR_MS,
            )
            for trash_id, v in self.in_trash.items()
        )  # fmt: skip
        held = sum(row.held_bytes for row in rows)
        return mv.TrashReply(volumes=rows, held_bytes=held, keep_h=72, as_of=self.reply.as_of)

    def _out(self, trash_id: int) -> s.VolumeStatus:
        found = self.in_trash.pop(trash_id, None)
        if found is None:
            raise Refused(NotFound("trashed volume", str(trash_id)))
        return found

    async def restore(
        self, trash_id: int, request: mv.RestoreRequest, *, who: str, request_id: str | None
    ) -> s.VolumeReply:
        self._note("restore", (trash_id, request.name), request_id)
        found = self._out(trash_id)
        return self._volume_reply(replace(found, name=request.name or found.name))

    async def purge(self, trash_id: int, *, who: str, request_id: str | None) -> s.VolumeReply:
        self._note("purge", trash_id, request_id)
        return self._volume_reply(self._out(trash_id))

    async def set_read_only(
        self, name: str, request: mv.ReadOnlyRequest, *, who: str, request_id: str | None
    ) -> s.VolumeReply:
        self._note("set_read_only", (name, request.read_only), request_id)
        return self._volume_reply(replace(self._found(name), read_only=request.read_only))

    def _started(self, what: str, body: Any, job_id: str) -> s.JobReply:
        self._note(what, body, None)
        running = s.JobReply(
            id=job_id, what=what, state="running", done_bytes=0, total_bytes=GIB, started_ms=NOW_MS,
            note="moving", cancellable=True,
        )  # fmt: skip
        half = replace(running, done_bytes=GIB // 2, bytes_s=1e8, eta_seconds=5.4)
        self.jobs_known[job_id] = [half, replace(running, state="done", done_bytes=GIB, note="")]
        return running

    async def drain_real(self, storage: str, lun: int, *, who: str, request_id: str | None) -> s.JobReply:
        return self._started("drain_real", (storage, lun), f"tokyo.drain.{storage}.{lun}")

    async def drain_site(self, name: str, *, who: str) -> s.JobReply:
        return self._started("drain_site", name, "tokyo.1")

    async def migrate(self, name: str, request: mv.MigrateRequest, *, who: str) -> s.JobReply:
        return self._started("migrate", (name, request), "tokyo.2")

    async def save(self, name: str, request: mv.SaveRequest, *, who: str) -> s.JobReply:
        return self._started("save", (name, request), "tokyo.3")

    async def verify(self, name: str, request: vf.VerifyRequest, *, who: str) -> s.JobReply:
        running = self._started("verify", (name, request), "tokyo.4")
        half, done = self.jobs_known["tokyo.4"]
        self.jobs_known["tokyo.4"] = [half, replace(done, verified=self.found)]
        return running

    async def verify_step(self, name: str, step: vf.VerifyStep) -> vf.VerifyStepReply:
        self._note("verify_step", (name, step), None)
        return vf.VerifyStepReply("moved", step.tally)

    async def jobs(self, *, passed: bool) -> mv.JobsReply:
        return mv.JobsReply(jobs=tuple(answers[0] for answers in self.jobs_known.values()))

    async def cancel_job(self, job_id: str, *, who: str) -> s.JobReply:
        self._note("cancel_job", job_id, None)
        return replace(self.jobs_known[job_id][0], state="failed")
