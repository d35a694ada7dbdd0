"""A site manager's API without a site: the real HTTP server over a service of canned tables.

`FakeService` answers from a few structs that a test may change, remembers every change asked of it, and
raises what a test puts into `fault`. `serving` runs it on a loopback port.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from msgspec.structs import replace

from tests.fake_copies import FakeCopies
from tests.fake_moves import FakeMoves
from vimraft.api import schema as s
from vimraft.api import schema_meta as m
from vimraft.api.errors import IndexOutOfReach, Refused
from vimraft.api.server import make_app
from vimraft.core.ids import LocalName, StorageAddress
from vimraft.core.reasons import Exists, NoSpace, NotFound, SiteFree
from vimraft.core.tables import MapChange, Replica, Segment, Settings
from vimraft.core.views import REAL_FREE, REAL_IDENTIFYING, VIRTUAL_IDENTIFYING, VIRTUAL_SECTORS

MIB = 1 << 20
GIB = 1 << 30
TOKEN = "a-token-of-some-length"
NOW_MS = 1_790_000_000_000
START_LIMIT_S = 20.0


def site(name: str, role: str = "follower", **changes: Any) -> s.SiteStatus:
    base = s.SiteStatus(
        name=name,
        manager=name,
        role=role,  # type: ignore[arg-type]
        healthy=role != "down",
        problem="no heartbeat for 12 s" if role == "down" else "",
        pid=s.Pids(manager=101, export=102, store=103),
        lag=0,
        last_seen_seconds=0.4,
        api_url="http://127.0.0.1:7102",
        nbd_address="127.0.0.1:10809",
        priority=("osaka",),
        installed_index=1234,
        vote="voter",
        contact_ms=42,
    )
    return replace(base, **changes)


def real(storage: str, lun: int, where: str, volume_class: str, used: float, **changes: Any) -> s.RealStatus:
    capacity = 100 * GIB
    base = s.RealStatus(
        id=f"{storage}:{lun}",
        storage=storage,
        lun=lun,
        site=where,
        volume_class=volume_class,
        uri=f"file:///srv/{storage}/lun-{lun}",
        capacity_bytes=capacity,
        free_bytes=int(capacity * (1 - used)) // MIB * MIB,
        releasing_bytes=0,
        state="active",
        reason="",
        io=s.IoRates(read_iops=120.0, write_iops=40.0, read_latency_us=210.0, write_latency_us=900.0),
    )
    return replace(base, **changes)


def volume(name: str, size_bytes: int, owner: str, sites: tuple[str, ...], **changes: Any) -> s.VolumeStatus:
    base = s.VolumeStatus(
        name=name,
        size_bytes=size_bytes,
        volume_class="ssd",
        owner=owner,
        epoch=1,
        read_only=False,
        replicas=(
            s.ReplicaStatus(local_name="volume A", state="in_sync", sites=sites, segments=len(sites)),
        ),
        sites=sites,
        created_ms=NOW_MS,
        io={
            owner: s.IoRates(
                read_iops=1234.0, write_iops=310.0, read_bytes_s=45.0 * MIB, write_bytes_s=3.0 * MIB,
                read_latency_us=184.0, write_latency_us=1520.0,
            )
        },
    )  # fmt: skip
    return replace(base, **changes)


def event(number: int, severity: str = "info", message: str = "") -> s.EventReply:
    return s.EventReply(
        id=number,
        at_ms=NOW_MS + number * 1000,
        site="tokyo",
        name="volume.built",
        subject=f"v{number}",
        severity=severity,  # type: ignore[arg-type]
        message=message or f"volume v{number} built: 64 MiB of class ssd at tokyo",
    )


def member(name: str, role: s.MemberRole = "voter", **changes: Any) -> s.MemberStatus:
    base = s.MemberStatus(
        name=name,
        raft_address=f"127.0.0.1:{7101 + len(name)}",
        api_url="http://127.0.0.1:7102",
        role=role,
        connected=True,
        last_contact_ms=42,
        lag=0,
        applied_index=1234,
        node_id=f"id-{name}",
        release="0.1.0",
        problem="",
        sites=(name,),
    )
    return replace(base, **changes)


def membership() -> s.Membership:
    return s.Membership(
        members=(
            member("nagoya"),
            member("osaka", "leader", last_contact_ms=0),
            member("sendai", "observer", lag=17, sites=()),
            member("tokyo"),
        ),
        seen_by="osaka",
        term=7,
        generation=1,
        cluster="5f2b9c1e",
        voters=3,
        voters_needed=2,
        voters_reachable=3,
    )


def status() -> s.StatusReply:
    return s.StatusReply(
        cluster_id="5f2b9c1e-demo",
        answered_by="tokyo",
        leader="osaka",
        as_of=s.AsOf(index=1234, age_seconds=0.0, quorum=True),
        sites=(site("nagoya"), site("osaka", "leader"), site("tokyo", lag=2)),
        reals=(
            real("n1", 0, "nagoya", "ssd", 0.05),
            real("o1", 0, "osaka", "ssd", 0.85),
            real("o1", 1, "osaka", "fast-hdd", 0.5, state="failed", reason="label: foreign"),
            real("t1", 0, "tokyo", "ssd", 1.0),
            real("t1", 1, "tokyo", "fast-hdd", 0.25),
        ),
        volumes=(
            volume("archive", 500 * GIB, "osaka", ("osaka",), io={}),
            volume("db-main", 64 * MIB, "tokyo", ("tokyo", "osaka")),
            volume("scratch", 3 * GIB // 2, "nagoya", ("nagoya",), epoch=17),
        ),
        settings=Settings(),
        version="0.1.0",
        storages=(s.StorageStatus(address="t1", site="tokyo", uri="file:///srv/t1"),),
        membership=membership(),
    )


class FakeService(FakeCopies, FakeMoves):
    def __init__(self) -> None:
        self.token = TOKEN
        self.reply = status()
        self.log: list[s.EventReply] = [event(n) for n in range(1, 6)]
        self.calls: list[tuple[str, Any, str | None]] = []
        """(operation, body or name, request id) of every change asked for."""
        self.fault: Exception | None = None
        """Raised by every operation while it is set."""
        self.join_reply = s.JoinReply(
            cluster_id=self.reply.cluster_id, members=("127.0.0.1:7101",), cluster="c", generation=1
        )
        self.backup_file = b"no backup was put here"
        self.jobs_known: dict[str, list[s.JobReply]] = {}
        """Answers to polls, the last one for ever."""
        self.in_trash: dict[int, s.VolumeStatus] = {}

    def _note(self, what: str, body: Any, request_id: str | None) -> None:
        self.calls.append((what, body, request_id))
        if self.fault is not None:
            raise self.fault

    def _found(self, name: str) -> s.VolumeStatus:
        if self.fault is not None:
            raise self.fault
        known = tuple(v.name for v in self.reply.volumes)
        if name not in known:
            raise Refused(NotFound("virtual volume", name, known))
        return self.reply.volumes[known.index(name)]

    def _volume_reply(self, found: s.VolumeStatus, *, planned: bool = False) -> s.VolumeReply:
        sectors = found.size_bytes // 512
        segment = s.SegmentReply(
            virtual_first=0, virtual_last=sectors - 1, local_name="volume A", storage="t1", lun=0,
            real_first=2048, real_last=2048 + sectors - 1, site="tokyo",
        )  # fmt: skip
        return s.VolumeReply(
            volume=found, segments=(segment,), segments_left_out=0, planned=planned,
            index=self.reply.as_of.index - 3,
        )  # fmt: skip

    async def status(self) -> s.StatusReply:
        if self.fault is not None:
            raise self.fault
        return self.reply

    async def table(
        self, which: str, *, name: str | None, offset: int, limit: int, at: int | None = None
    ) -> s.TableReply:
        if self.fault is not None:
            raise self.fault
        columns, rows = self._rows(which)
        first = columns[0]
        kept = [row for row in rows if name is None or (first == "common name" and row[0] == name)]
        return s.TableReply(
            title=which.replace("-", " "), columns=columns, rows=tuple(kept[offset : offset + limit]),
            as_of=self._as_of(at),
        )  # fmt: skip

    def _as_of(self, at: int | None) -> s.AsOf:
        if at is None:
            return self.reply.as_of
        if not 100 <= at <= self.reply.as_of.index:
            raise IndexOutOfReach(at, 100, self.reply.as_of.index)
        return replace(self.reply.as_of, index=at)

    def _rows(self, which: str) -> tuple[tuple[str, ...], list[tuple[str | int, ...]]]:
        reals, volumes = self.reply.reals, self.reply.volumes
        if which == "real-identifying":
            return REAL_IDENTIFYING, [("volume A", r.storage, r.lun, r.capacity_bytes) for r in reals]
        if which == "real-free":
            return REAL_FREE, [(r.storage, r.lun, r.volume_class, r.free_bytes) for r in reals]
        if which == "virtual-identifying":
            return VIRTUAL_IDENTIFYING, [(v.name, v.owner, "127.0.0.1", "volume A", GIB) for v in volumes]
        return VIRTUAL_SECTORS, [
            (
                v.name,
                f"0–{v.size_bytes // 512 - 1}",
                "volume A",
                "t1",
                0,
                f"2048–{v.size_bytes // 512 + 2047}",
            )
            for v in volumes
        ]

    async def volume(self, name: str) -> s.VolumeReply:
        return self._volume_reply(self.nearer(self._found(name)))

    async def volume_map(self, name: str, at: int | None = None) -> s.MapReply:
        found = self._found(name)
        sectors = found.size_bytes // 512
        segment = Segment(
            virtual_first=0, sectors=sectors, storage=StorageAddress("t1"), lun=0, real_first=2048
        )
        return s.MapReply(
            name=name,
            size_bytes=found.size_bytes,
            epoch=found.epoch,
            owner=found.owner,
            replicas=(Replica(local_name=LocalName("volume A"), state="in_sync", segments=(segment,)),),
            table=await self.table("virtual-sectors", name=name, offset=0, limit=100, at=at),
        )

    async def volume_uri(self, name: str, site: str | None) -> s.UriReply:
        found = self._found(name)
        return s.UriReply(
            uri=f"nbd://127.0.0.1:10809/{name}", site=site or "tokyo", host="127.0.0.1", port=10809,
            export=name, size_bytes=found.size_bytes,
        )  # fmt: skip

    async def build(self, request: s.BuildRequest, *, who: str, request_id: str | None) -> s.VolumeReply:
        self._note("build", request, request_id)
        if request.size_bytes > 1000 * GIB:
            reason = NoSpace(
                volume_class=request.volume_class,
                needed_bytes=request.size_bytes,
                largest_bytes=1000 * GIB,
                sites=(SiteFree("tokyo", 600 * GIB), SiteFree("osaka", 400 * GIB)),
                known_classes=("ssd", "fast-hdd"),
            )
            raise Refused(reason)
        if any(v.name == request.name for v in self.reply.volumes):
            raise Refused(Exists("virtual volume", request.name))
        built = volume(request.name, request.size_bytes, "tokyo", request.sites or ("tokyo",), io={})
        if not request.plan:
            self.reply = replace(self.reply, volumes=(*self.reply.volumes, built))
        return self._volume_reply(built, planned=request.plan)

    async def grow(
        self, name: str, request: s.GrowRequest, *, who: str, request_id: str | None
    ) -> s.VolumeReply:
        self._note("grow", (name, request.size_bytes), request_id)
        return self._volume_reply(replace(self._found(name), size_bytes=request.size_bytes))

    def _done(self, what: str, body: Any, request_id: str | None) -> s.DoneReply:
        self._note(what, body, request_id)
        return s.DoneReply(index=self.reply.as_of.index)

    async def set_storage(
        self, request: s.StorageRequest, *, who: str, request_id: str | None
    ) -> s.DoneReply:
        return self._done("set_storage", request, request_id)

    async def remove_storage(self, address: str, *, who: str, request_id: str | None) -> s.DoneReply:
        return self._done("remove_storage", address, request_id)

    async def add_real(self, request: s.AddRealRequest, *, who: str) -> s.JobReply:
        self._note("add_real", request, None)
        running = s.JobReply(
            id="7", what="preparing t1:2", state="running", done_bytes=0, total_bytes=GIB, started_ms=NOW_MS
        )
        half = replace(running, done_bytes=GIB // 2)
        self.jobs_known.setdefault("7", [half, replace(running, state="done", done_bytes=GIB)])
        return running

    async def set_real(
        self, storage: str, lun: int, request: s.SetRealRequest, *, who: str, request_id: str | None
    ) -> s.DoneReply:
        return self._done("set_real", (storage, lun, request.state), request_id)

    async def remove_real(self, storage: str, lun: int, *, who: str, request_id: str | None) -> s.DoneReply:
        return self._done("remove_real", (storage, lun), request_id)

    async def job(self, job_id: str) -> s.JobReply:
        answers = self.jobs_known[job_id]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def set_priority(
        self, site: str, request: s.PriorityRequest, *, who: str, request_id: str | None
    ) -> s.DoneReply:
        return self._done("set_priority", (site, request.priority), request_id)

    async def set_setting(
        self, name: str, request: s.SettingRequest, *, who: str, request_id: str | None
    ) -> s.DoneReply:
        return self._done("set_setting", (name, request.value), request_id)

    async def events(self, *, after: int, limit: int) -> s.EventsReply:
        if self.fault is not None:
            raise self.fault
        found = self.log[-limit:] if after < 0 else [e for e in self.log if e.id > after][:limit]
        return s.EventsReply(events=tuple(found))

    async def history(self, *, limit: int) -> s.HistoryReply:
        change = MapChange(index=12, at_ms=NOW_MS, who="root@[::1]", what="built", name="db-main")
        return s.HistoryReply(changes=(change,), as_of=self.reply.as_of, oldest_index=100)

    async def members(self) -> s.MembersReply:
        if self.fault is not None:
            raise self.fault
        assert self.reply.membership is not None
        return s.MembersReply(membership=self.reply.membership, as_of=self.reply.as_of)

    async def join(self, request: s.JoinRequest, *, who: str, passed: bool) -> s.JoinReply:
        self._note("join", request, None)
        return self.join_reply

    async def promote(self, name: str, *, who: str, passed: bool) -> s.DoneReply:
        return self._done("promote", name, None)

    async def remove_manager(
        self, name: str, *, force: bool, who: str, request_id: str | None, passed: bool
    ) -> s.DoneReply:
        return self._done("remove_manager", (name, force), request_id)

    async def meta_status(self) -> m.MetaStatusReply:
        if self.fault is not None:
            raise self.fault
        return m.MetaStatusReply(
            cluster_id=self.reply.cluster_id,
            cluster="4f2f8a9c-3b1e-5c0d-9a57-000000000000",
            generation=1,
            level=1,
            highest_level=2,
            managers=(
                m.ManagerLevel(name="nagoya", release="0.1.0", reads=1, heard=True),
                m.ManagerLevel(name="osaka", release="", reads=None, heard=False),
                m.ManagerLevel(name="tokyo", release="0.2.0", reads=2, heard=True),
            ),
            answered_by="tokyo",
            as_of=self.reply.as_of,
            oldest_index=100,
            newest_backup=self._backup(),
            backup_problem="",
        )

    def _backup(self) -> m.BackupInfo:
        return m.BackupInfo(
            name="20260921T160000Z-g1-i1200-daily.vimraft-backup",
            at_ms=NOW_MS,
            index=1200,
            generation=1,
            kind="daily",
            size_bytes=3 * MIB,
        )

    async def upgrade(self, request: m.UpgradeRequest, *, who: str, request_id: str | None) -> m.UpgradeReply:
        self._note("upgrade", request, request_id)
        return m.UpgradeReply(before=1, level=2, planned=request.plan, index=1235)

    async def backup(self, *, who: str) -> bytes:
        if self.fault is not None:
            raise self.fault
        return self.backup_file

    async def backups(self) -> m.BackupsReply:
        return m.BackupsReply(
            manager="tokyo", directory="/var/lib/vimraft/backups", backups=(self._backup(),), problem=""
        )

    async def heartbeat(self, beat: s.Heartbeat) -> None:
        self._note("heartbeat", beat, None)

    def metrics(self) -> bytes:
        return b"vimraft_up 1\n"


def closed_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """An ASGI app (or a FakeService) on loopback; its URL."""
    if isinstance(app, FakeService):
        app = make_app(app)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(64)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[sock]), daemon=True)
    thread.start()
    deadline_s = time.monotonic() + START_LIMIT_S
    while not server.started:
        if time.monotonic() > deadline_s or not thread.is_alive():
            raise AssertionError("the fake API did not start")
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_LIMIT_S)
        sock.close()


if __name__ == "__main__":
    import signal
    import sys

    with serving(FakeService(), int(sys.argv[1]) if len(sys.argv) > 1 else 0) as where:
        sys.stdout.write(where + "\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
