"""The store side of a volume with copies over byte arrays: the real machine, no disk, no threads."""

import threading
import time
import zlib
from collections.abc import Callable

from vimraft.core.ids import LocalName, ManagerName, VolumeName
from vimraft.protocol.effects import Answered, BackendFlush, BackendIo, Drained, Keep, StoreEffect
from vimraft.protocol.maps import Copy, Part, VolumeMap
from vimraft.protocol.messages import Session, StoreAnswer
from vimraft.protocol.owner_effects import SetTimer, StoreRequest
from vimraft.protocol.regions import StoreRecord
from vimraft.protocol.store import Store
from vimraft.protocol.store_requests import StoreLimits

MIB = 1 << 20
VOLUME = VolumeName("v")


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def copies_map(
    *copies: tuple[str, str, str], epoch: int = 1, owner: str = "a", mib: int = 8, index: int = 0, **more: int
) -> VolumeMap:
    """`copies`: (name, state, manager), each whole at one manager."""
    made = [
        Copy(LocalName(name), state, (Part(0, mib * MIB, ManagerName(manager)),), **more)  # type: ignore[arg-type]
        for name, state, manager in copies
    ]
    return VolumeMap(VOLUME, index or epoch, epoch, ManagerName(owner), mib * MIB, tuple(made))


class MemoryStore:
    """`down`: whoever asks gets no answer. `failing`: kinds of backend requests that end with an error."""

    def __init__(
        self,
        me: str,
        newest: VolumeMap,
        boot: str = "boot",
        limits: StoreLimits = StoreLimits(),  # noqa: B008  (frozen)
    ) -> None:
        self.me = ManagerName(me)
        self.boot = boot
        self.down = False
        self.failing: set[str] = set()
        self.data = {copy.name: bytearray(newest.size_bytes) for copy in newest.copies if me in copy.stores}
        self.requests: list[StoreRequest] = []
        self._lock = threading.RLock()
        self._store = Store(self.me, boot, StoreRecord(), limits=limits)
        self._waiting: dict[tuple[Session, int], Callable[[StoreAnswer], None]] = {}
        self.install(newest)

    def install(self, newest: VolumeMap) -> None:
        for copy in newest.copies:
            if self.me in copy.stores:
                self.data.setdefault(copy.name, bytearray(newest.size_bytes))
        stores = {store for copy in newest.copies for store in copy.stores}
        with self._lock:
            self._do(self._store.applied(newest, dict.fromkeys(stores, self.boot), now_ns()))

    def ask(self, session: Session, request: StoreRequest, done: Callable[[StoreAnswer], None]) -> None:
        if self.down:
            return
        self.requests.append(request)
        with self._lock:
            self._waiting[session, request.number] = done
            effects = self._store.request(session, request, now_ns())
            answers = self._do(effects)
        for call, answer in answers:
            call(answer)

    def _do(self, effects: list[StoreEffect]) -> list[tuple[Callable[[StoreAnswer], None], StoreAnswer]]:
        answers = []
        todo = list(effects)
        while todo:
            effect = todo.pop(0)
            match effect:
                case Answered(to, answer):
                    done = self._waiting.pop((to, answer.number), None)
                    if done is not None:
                        answers.append((done, answer))
                case Keep(token, _):
                    todo += self._store.persisted(token, True, now_ns())
                case BackendFlush(token, _):
                    how = "error" if "flush" in self.failing else "ok"
                    todo += self._store.backend_done(token, how, b"", now_ns())
                case BackendIo():
                    todo += self._io(effect)
                case Drained() | SetTimer():
                    pass
        return answers

    def _io(self, io: BackendIo) -> list[StoreEffect]:
        if io.kind in self.failing:
            return self._store.backend_done(io.token, "error", b"", now_ns())
        data, found = self.data[io.copy], b""
        if io.kind == "read":
            found = bytes(data[io.first : io.end])
        elif io.kind == "checksum":
            found = zlib.crc32(memoryview(data)[io.first : io.end]).to_bytes(4)
        else:
            data[io.first : io.end] = io.data if io.kind == "write" else bytes(io.end - io.first)
        return self._store.backend_done(io.token, "ok", found, now_ns())
