"""Volumes with several copies that this export owns: what the engine swaps into their gates.

May live here: the beginning and the end of an owner's life by the installed maps, client requests cut to the
size that machines take, and the feed's messages on their way to the owners. Keeps INV-2: a volume that was
this manager's when this process began is served only in an epoch that `ReopenVolumes` brought for this life,
since the earlier one may have requests under way in its own. That is so in any newer epoch than the first one
seen, and from the first lease on: the manager grants none before the reopening is applied and installed.
"""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from vimraft.core.ids import LocalName, ManagerName
from vimraft.data import feed
from vimraft.data.copies.owner_side import Client, OwnerSide
from vimraft.data.copies.shell import LocalStore, Shell
from vimraft.data.copies.upkeep import Upkeep
from vimraft.data.copies.workers import boottime_ns
from vimraft.data.errors import IoError, TryAgain
from vimraft.data.holds import Holds
from vimraft.data.request import FLUSH, READ, TRIM, WRITE, ZERO, Op
from vimraft.protocol.balance import Told
from vimraft.protocol.desk import Limits
from vimraft.protocol.losses import NO_LOSS, LossMark
from vimraft.protocol.owner_effects import Installed, Reply, RequestKind

MAX_REQUEST_BYTES = 32 << 20
"""Of one request to a machine; longer zeros and trims are made one after the other."""
MS = 1_000_000
US = 1_000
_NO_EPOCH = 1 << 62
STORE_TIMEOUT_PART = 3
"""A store is taken for lost so early that there is time for a retirement within the I/O timeout."""
LONGEST_STORE_TIMEOUT_MS = 5_000
"""Clients wait for as long as that for a store that stands still; a takeover takes no less."""
_KINDS: dict[int, RequestKind] = {READ: "read", WRITE: "write", ZERO: "zero", TRIM: "trim"}


def limits(io_timeout_s: float) -> Limits:
    io_timeout_ms = int(io_timeout_s * 1000)
    store_ms = min(LONGEST_STORE_TIMEOUT_MS, io_timeout_ms // STORE_TIMEOUT_PART)
    return Limits(io_timeout_ns=io_timeout_ms * MS, store_timeout_ns=store_ms * MS)


class OwnedVolume:
    """Of one volume, for as long as its gate has plans of kind "copies"."""

    def __init__(
        self,
        shell: Shell,
        store: LocalStore,
        first: feed.VolumeMap,
        *,
        former_epoch: int,
        cachers: Callable[[], Iterable[ManagerName]],
        io_timeout_s: Callable[[], float],
        holds: Holds,
        new: bool,
    ) -> None:
        self.name = first.name
        self._holds = holds
        self._new = new
        self._shell = shell
        self._store = store
        self._former_epoch = former_epoch
        self._cachers = cachers
        self._io_timeout_s = io_timeout_s
        self._side: OwnerSide | None = None
        self._upkeep: Upkeep | None = None
        self._epoch = 0
        self._changed = threading.Condition()
        self._beginning = threading.Lock()
        self._newest = first
        self.follow(first)

    # --- maps, in the order of the log ----------------------------------------------------------------

    def follow(self, newer: feed.VolumeMap) -> None:
        """Does not wait; see `wait_installed`."""
        assert newer.copies is not None, "only maps with copies come here"
        newest, reading = newer.copies.map, newer.copies.reading
        with self._beginning:
            self._newest = newer
            side = self._side
            if side is None:
                if newest.epoch > self._former_epoch:
                    self._begin(newer.copies)
                return
        side.owner.balance.preference = reading
        side.event(lambda now_ns: side.owner.applied(newest, now_ns))

    def reopened(self) -> None:
        """The epoch of the newest map here is this life's own."""
        with self._beginning:
            if self._side is None and self._newest.copies is not None:
                self._begin(self._newest.copies)

    def _begin(self, copies: feed.CopiesMap) -> None:
        began_ns, epoch = boottime_ns(), copies.map.epoch
        side = OwnerSide(
            self._shell,
            copies.map,
            self._store,
            limits(self._io_timeout_s()),
            self._note_installed,
            serving=lambda: self._note_serving(max(epoch, self._epoch), boottime_ns() - began_ns),
        )
        side.owner.balance.preference = copies.reading
        book = self._shell.leases
        side.event(lambda now_ns: side.owner.leases_changed(book.installed, now_ns))
        self._upkeep = Upkeep(side, self._cachers())
        self._epoch = copies.map.epoch
        self._side = side
        self._upkeep.start()

    def _note_serving(self, epoch: int, held_ns: int) -> None:
        if not self._new:
            self._holds.note(epoch, held_ns)

    def _note_installed(self, effect: Installed) -> None:
        self._holds.note(effect.epoch, effect.hold_ns)
        with self._changed:
            self._epoch = max(self._epoch, effect.epoch)
            self._changed.notify_all()

    def wait_installed(self, epoch: int, deadline: float) -> bool:
        """Until I/O goes by the map of this epoch. It does not wait for the epoch that it may begin in."""
        with self._changed:
            return self._side is None or self._changed.wait_for(
                lambda: self._epoch >= epoch or (self._side is not None and self._side.closed),
                deadline - time.monotonic(),
            )

    def close(self, newer: feed.VolumeMap | None) -> None:
        """`newer`: what ends it; None: the volume is gone, or this process ends."""
        with self._beginning:
            side, upkeep = self._side, self._upkeep
            self._former_epoch = _NO_EPOCH  # it does not begin any more
            self._newest = msgspec.structs.replace(self._newest, copies=None)
        if side is None:
            return
        if newer is not None and newer.copies is not None:
            newest = newer.copies.map
            side.event(lambda now_ns: side.owner.applied(newest, now_ns))
        side.close()
        if upkeep is not None:
            upkeep.ended("" if newer is None else newer.owner)
        with self._changed:
            self._changed.notify_all()

    # --- clients ----------------------------------------------------------------------------------------

    def read(self, buf: memoryview, offset: int, client: Client) -> bool:
        """A request of ordinary length inside of the volume; false: do it by `run`. Raises IoError."""
        side = self._side
        if side is None:
            return False
        reply = side.request("read", offset, offset + len(buf), b"", fua=False, client=client)
        if reply.how == "done":
            buf[:] = reply.data
        return reply.how == "done" or _again(self.name, reply)

    def write(self, buf: memoryview, offset: int, client: Client) -> bool:
        """As `read`."""
        side = self._side
        if side is None:
            return False
        data = bytes(buf)  # what waits longer than this call must not use nbdkit's buffer
        reply = side.request("write", offset, offset + len(data), data, fua=False, client=client)
        return reply.how == "done" or _again(self.name, reply)

    def run(self, op: Op, client: Client) -> None:
        """What is pending of `op`. Raises IoError and TryAgain."""
        side = self._side
        if side is None:
            raise TryAgain("it waits for an epoch of its own in the tables")
        if op.kind == FLUSH:
            reply = side.request("flush", 0, 0, b"", fua=False, client=client)
            client.told(reply.told)
            _judge(self.name, reply)
            op.pending = []
            return
        if op.fast:
            raise IoError(errno.EOPNOTSUPP, "zeroing several copies is not known to be fast")
        size_bytes = side.owner.desk.newest.size_bytes
        while op.pending:
            offset, left = op.pending[0]
            if offset < 0 or offset + left > size_bytes:
                raise IoError(errno.EINVAL, f"{offset}+{left} lies outside of {self.name}")
            length = min(left, MAX_REQUEST_BYTES)
            if length:
                self._one(side, op, offset, length, client)
            op.pending[:1] = [(offset + length, left - length)] if left > length else []

    def _one(self, side: OwnerSide, op: Op, offset: int, length: int, client: Client) -> None:
        data = bytes(op.part(offset, length)) if op.kind == WRITE else b""
        reply = side.request(_KINDS[op.kind], offset, offset + length, data, fua=op.fua, client=client)
        _judge(self.name, reply)
        if op.kind == READ:
            op.part(offset, length)[:] = reply.data

    # --- the feed -----------------------------------------------------------------------------------------

    def leases_changed(self) -> None:
        side = self._side
        if side is not None:
            side.event(lambda now_ns: side.owner.leases_changed(self._shell.leases.installed, now_ns))

    def note_loads(self, loads: dict[LocalName, Told]) -> None:
        side = self._side
        if side is not None:
            with side.lock:
                side.owner.balance.tell(loads, boottime_ns())

    def move(self, token: int, new_owner: ManagerName) -> None:
        if self._upkeep is None:
            self._shell.tell(feed.MoveDone(token, False, f"{self.name}: its owner does not serve yet"))
        else:
            self._upkeep.move(token, new_owner)

    def verify(self, wanted: feed.VerifyCopies) -> None:
        if self._upkeep is None:
            text = "its owner does not serve yet"
            self._shell.tell(feed.VerifyTold(wanted.id, "moved", wanted.tally, text))
        else:
            self._upkeep.verifying.asked(wanted)

    @property
    def owed(self) -> LossMark:
        """Of the last loss: sessions that do not know it are told by their next flush."""
        return NO_LOSS if self._side is None else self._side.owner.losses.mark

    def status(self) -> feed.CopiesStatus | None:
        return None if self._upkeep is None else self._upkeep.status()


def _again(name: str, reply: Reply) -> bool:
    with contextlib.suppress(TryAgain):
        _judge(name, reply)
    return False


def _judge(name: str, reply: Reply) -> None:
    if reply.how == "failed":
        raise IoError(errno.EIO, f"{name}: not done at any copy that counts within the I/O timeout")
    if reply.how != "done":
        raise TryAgain("another owner takes over" if reply.how == "moved" else "too many requests wait")


class OwnedVolumes:
    """All of one export."""

    def __init__(
        self,
        shell: Shell,
        store_of: Callable[[feed.VolumeMap], LocalStore],
        *,
        cachers: Callable[[], Iterable[ManagerName]],
        io_timeout_s: Callable[[], float],
    ) -> None:
        self.shell = shell
        self.store_of = store_of
        """The store of a volume in this process, asked for when an owner's life begins."""
        self._cachers = cachers
        self._io_timeout_s = io_timeout_s
        self._former: dict[str, int] = {}
        """Epoch in which this process found volumes as its manager's when it began."""
        self._met = False
        self._leased = False
        """This life had a lease."""
        self._volumes: dict[str, OwnedVolume] = {}

    def meet(self, volumes: Iterable[feed.VolumeMap]) -> None:
        """The first map of this process, before it is installed."""
        if not self._met:
            self._met = True
            self._former = {volume.name: volume.epoch for volume in volumes if volume.owned}

    def open(self, first: feed.VolumeMap, holds: Holds | None = None, *, new: bool = False) -> OwnedVolume:
        """`new`: nobody knew the volume before, so that nobody waits until it is served."""
        volume = self._volumes[first.name] = OwnedVolume(
            self.shell,
            self.store_of(first),
            first,
            former_epoch=self._former.get(first.name, 0),
            cachers=self._cachers,
            io_timeout_s=self._io_timeout_s,
            holds=holds or Holds(),
            new=new,
        )
        if self._leased:
            volume.reopened()  # the first lease may have come meanwhile
        return volume

    def close(self, volume: OwnedVolume, newer: feed.VolumeMap | None) -> None:
        volume.close(newer)
        if self._volumes.get(volume.name) is volume:
            del self._volumes[volume.name]

    def set_lease(self, boottime_until_ns: int) -> None:
        self.shell.leases.own_until(boottime_until_ns)
        if not self._leased and boottime_until_ns:
            self._leased = True
            for volume in tuple(self._volumes.values()):
                volume.reopened()
        self._leases_changed()

    def lose_manager(self) -> None:
        """It does not answer any more; until it renews the lease."""
        self.shell.leases.lose_manager()

    def note_leases(self, leases: feed.Leases) -> None:
        self.shell.leases.table(leases, boottime_ns())
        self._leases_changed()

    def note_loads(self, loads: feed.Loads) -> None:
        by_volume: dict[str, dict[LocalName, Told]] = {}
        for row in loads.rows:
            told = Told(row.in_flight, row.latency_us * US)
            by_volume.setdefault(row.volume, {})[LocalName(row.copy)] = told
        for name, rows in by_volume.items():
            volume = self._volumes.get(name)
            if volume is not None:
                volume.note_loads(rows)

    def _leases_changed(self) -> None:
        for volume in tuple(self._volumes.values()):
            volume.leases_changed()

    def move(self, wanted: feed.MoveOwnerTo) -> None:
        volume = self._volumes.get(wanted.volume)
        if volume is None:
            text = f"{wanted.volume}: this manager does not own it with several copies"
            self.shell.tell(feed.MoveDone(wanted.token, False, text))
        else:
            volume.move(wanted.token, ManagerName(wanted.new_owner))

    def verify(self, wanted: feed.VerifyCopies) -> None:
        volume = self._volumes.get(wanted.volume)
        if volume is None:
            text = "this manager does not own it with several copies"
            self.shell.tell(feed.VerifyTold(wanted.id, "moved", wanted.tally, text))
        else:
            volume.verify(wanted)

    def status(self) -> dict[str, feed.CopiesStatus]:
        found = {name: volume.status() for name, volume in tuple(self._volumes.items())}
        return {name: status for name, status in found.items() if status is not None}
