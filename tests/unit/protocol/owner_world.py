"""A volume's owner with stores of byte arrays: whatever the owner sends is answered at once, unless a store
was told to behave otherwise. Time moves only when a test says so.
"""

import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from vimraft.core.ids import LocalName, ManagerName, VolumeName
from vimraft.protocol.asks import Answer
from vimraft.protocol.desk import Leases, Limits
from vimraft.protocol.lease import OthersLease, OwnLease, SoleHolderRight
from vimraft.protocol.maps import REGION_BYTES, Copy, Part, VolumeMap
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import (
    ClientRequest,
    Effect,
    Persist,
    Propose,
    Reply,
    Send,
    SetTimer,
    StoreRequest,
)
from vimraft.protocol.pace import Pace, PaceLimits
from vimraft.protocol.rules import Rules

S = 1_000_000_000
LEASE_NS = 4 * S
VOLUME = VolumeName("data")
PARIS, ROME, OSLO = ManagerName("paris"), ManagerName("rome"), ManagerName("oslo")
A, B, C = LocalName("A"), LocalName("B"), LocalName("C")
SIZE = 8 * REGION_BYTES

ALL_RULES = Rules()


def copy(name: LocalName, *stores: ManagerName, state: str = "in_sync", **more: Any) -> Copy:
    """Its bytes are shared out evenly between `stores`."""
    each = SIZE // len(stores)
    parts = tuple(Part(at * each, (at + 1) * each, store) for at, store in enumerate(stores))
    return Copy(name, state, parts, **more)  # type: ignore[arg-type]


def two(**more: Any) -> VolumeMap:
    return VolumeMap(VOLUME, 10, 5, PARIS, SIZE, (copy(A, PARIS), copy(B, ROME)), **more)


class FakeStore:
    def __init__(self) -> None:
        self.data: dict[LocalName, bytearray] = {}
        self.boot = "b1"
        self.how: Callable[[StoreRequest], str] = lambda request: "done"
        """`silent`: no answer."""
        self.seen: list[StoreRequest] = []
        self.missed: tuple[int, ...] = ()
        self.missed_since: Callable[[int], tuple[int, ...]] = lambda since: self.missed
        self.in_step: tuple[int, set[int], str] = (0, set(), "")
        self.active: tuple[int, ...] = ()
        self.record = "r1"

    def do(self, request: StoreRequest) -> Answer | None:
        self.seen.append(request)
        how = self.how(request)
        if how == "silent":
            return None
        answer = Answer(request.number, how, self.boot)  # type: ignore[arg-type]
        if request.copy not in self.data:
            self.data[request.copy] = bytearray(SIZE)
        data = self.data[request.copy]
        if how == "done":
            if request.kind in ("write", "mend"):
                data[request.first : request.end] = request.data
            elif request.kind in ("zero", "trim"):
                data[request.first : request.end] = bytes(request.end - request.first)
            elif request.kind == "read":
                answer.data = bytes(data[request.first : request.end])
            elif request.kind == "checksum":
                answer.data = zlib.crc32(memoryview(data)[request.first : request.end]).to_bytes(4)
            elif request.kind == "seal":
                answer.regions, answer.record = self.active, self.record
            elif request.kind == "missed":
                answer.regions, answer.record = self.missed_since(request.since), self.record
            elif request.kind == "in_step":
                known = self.in_step[1] if self.in_step[0] == request.since else set()
                self.in_step = (request.since, known | set(request.regions), request.record)
            elif request.kind == "what_is_in_step":
                answer.since, regions, answer.record = self.in_step
                answer.regions = tuple(sorted(regions))
        return answer

    def kinds(self) -> list[str]:
        return [request.kind for request in self.seen]


class World:
    def __init__(
        self, first: VolumeMap, *, rules: Rules = ALL_RULES, serve: bool = True, lease: bool = True
    ) -> None:
        self.now = 100 * S
        self.own, self.others = OwnLease("p1", LEASE_NS), OthersLease(LEASE_NS)
        self.right = SoleHolderRight()
        if lease:
            self.renew()
        self.others.applied(ROME, None, self.now)
        self.others.applied(OSLO, None, self.now)
        leases = Leases(self.own, self.others)
        limits = Limits(io_timeout_ns=30 * S, store_timeout_ns=10 * S, retry_ns=S // 5)
        self.owner = Owner(PARIS, first, leases, right=self.right, rules=rules, limits=limits)
        self.stores = {store: FakeStore() for store in (PARIS, ROME, OSLO)}
        self.replies: dict[int, Reply] = {}
        self.proposed: list[Propose] = []
        self.persisted: list[Persist] = []
        self.other: list[Effect] = []
        self.timer_ns: int | None = None
        self._ids = 0
        self.disk = True
        """What is to be kept is kept at once."""
        self.delayed: list[tuple[ManagerName, Answer]] = []
        if serve:
            self.owner.serve()

    def renew(self) -> None:
        stamp = self.own.next_stamp()
        self.own.proposing(stamp, self.now)
        self.own.applied(stamp)

    def run(self, effects: list[Effect]) -> None:
        todo = list(effects)
        while todo:
            effect = todo.pop(0)
            if isinstance(effect, Send):
                answer = self.stores[effect.store].do(effect.request)
                if answer is not None:
                    todo += self.owner.answer(effect.store, answer, self.now)
            elif isinstance(effect, Reply):
                assert effect.id not in self.replies, "answered twice"
                self.replies[effect.id] = effect
            elif isinstance(effect, Propose):
                self.proposed.append(effect)
            elif isinstance(effect, Persist):
                self.persisted.append(effect)
                if self.disk:
                    todo += self.owner.persisted(effect.token, self.now)
            elif isinstance(effect, SetTimer):
                self.timer_ns = effect.at_ns
            else:
                self.other.append(effect)

    def ask(self, kind: str, first: int = 0, end: int = 0, **more: Any) -> int:
        self._ids += 1
        session = more.pop("session", "c1")
        request = ClientRequest(self._ids, session, kind, first, end, **more)  # type: ignore[arg-type]
        self.run(self.owner.request(request, self.now))
        return self._ids

    def write(self, byte: int, first: int = 0, length: int = 4096, **more: Any) -> int:
        return self.ask("write", first, first + length, data=bytes([byte]) * length, **more)

    def read(self, first: int = 0, length: int = 4096) -> int:
        return self.ask("read", first, first + length)

    def how(self, request: int) -> str | None:
        reply = self.replies.get(request)
        return None if reply is None else reply.how

    def byte(self, request: int) -> int:
        return self.replies[request].data[0]

    def wait(self, seconds: float) -> None:
        """Time passes, and every timer on the way is called."""
        until = self.now + int(seconds * S)
        while self.timer_ns is not None and self.timer_ns <= until:
            self.now = max(self.now, self.timer_ns)
            self.timer_ns = None
            self.run(self.owner.timer(self.now))
        self.now = until

    def apply(self, newer: VolumeMap) -> None:
        self.run(self.owner.applied(newer, self.now))

    def decide(self, decision: str = "applied", at: int = -1) -> None:
        self.run(self.owner.outcome(self.proposed[at].token, decision, self.now))  # type: ignore[arg-type]

    def installed(self, manager: ManagerName, index: int) -> None:
        self.run(self.owner.leases_changed({manager: index}, self.now))

    def bytes_at(self, store: ManagerName, name: LocalName, at: int = 0) -> int:
        return self.stores[store].data[name][at]


def throttle(world: World, idle: int, busy: int = 0) -> None:
    """Bytes that are copied or compared in a second, without clients and beside them."""
    busy = busy or idle
    limits = PaceLimits(busy, idle, busy, burst_ns=0)
    world.owner.pace = Pace(limits)


def after(before: VolumeMap, **states: str) -> VolumeMap:
    """The next epoch, with other states of copies (by name); everything else by `owner=…`."""
    owner = states.pop("owner", before.owner)
    lossy = before.epoch + 1 if states.pop("lossy", "") else before.lossy_epoch
    copies = tuple(
        msgspec.structs.replace(c, state=states.get(c.name, c.state))  # type: ignore[arg-type]
        for c in before.copies
    )
    return msgspec.structs.replace(
        before,
        index=before.index + 10,
        epoch=before.epoch + 1,
        owner=ManagerName(owner),
        copies=copies,
        lossy_epoch=lossy,
    )
