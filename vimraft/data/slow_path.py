"""A connection's requests off the hot path: holds, splits, peers, retries, flushes, block status.

May live here: what `Handle` does with a request that is not simply one piece of an open volume.
`can_multi_conn` is legal: a completed write of any connection is in the owner's backends or stores, and a
flush of any connection flushes all of them, at all stores.
"""

import errno
import itertools
import time
from typing import Protocol

from vimraft.data.copies.owner_side import Client
from vimraft.data.errors import IoError, PeerLost, RealBusy, TryAgain, wire_errno
from vimraft.data.gate import VolumeGate
from vimraft.data.reals import RealSlot
from vimraft.data.remote import Link, LinkKey, LinkPool
from vimraft.data.request import (
    FLUSH,
    READ,
    TRIM,
    WRITE,
    ZERO,
    Batch,
    Job,
    Op,
    do_local,
    do_remote,
    drive,
    split_jobs,
)
from vimraft.data.volume import FORWARD, Entry, Piece, Plan
from vimraft.protocol.losses import NO_LOSS, LossMark

BLOCK_MIN_BYTES = 512
BLOCK_PREFERRED_BYTES = 4096
BLOCK_MAX_BYTES = 32 << 20
ALIGN_MASK = BLOCK_MIN_BYTES - 1
RETRY_FIRST_S = 0.02
RETRY_LAST_S = 0.5
MAX_EXTENTS = 4096
"""Runs in one block status answer."""


class Watch(Protocol):
    """Who is told that a real volume misbehaves."""

    def real_failed(self, real: RealSlot, error: OSError) -> None: ...

    def flush_failed(self, real: RealSlot, error: OSError) -> None: ...


_clock_ns = time.perf_counter_ns
_clients = itertools.count(1)


def _pop(links: list[Link] | None) -> Link | None:
    """The last one; None also when the pool has just reclaimed it."""
    try:
        return links.pop() if links else None
    except IndexError:
        return None


class SlowPath:
    """`busy`, `superseded`, `epoch`: see gate and sessions. Counters are plain attributes."""

    __slots__ = (
        "_idle", "_losses_seen", "busy", "client", "epoch", "errors", "flushes", "forwarded", "gate", "pin",
        "pool", "read_bytes", "read_ns", "reads", "size_bytes", "stranded", "superseded", "ticket", "watch",
        "writable", "write_bytes", "write_ns", "writes",
    )  # fmt: skip

    def __init__(self, gate: VolumeGate, pool: LinkPool, watch: Watch, epoch: int = 0) -> None:
        self.gate = gate
        self.pool = pool
        self.watch = watch
        self.epoch = epoch
        """Serve exactly this epoch; 0: whatever is installed."""
        self.superseded = False
        self.ticket = ""
        """Not let in: what its peer needs to come back (see sessions)."""
        self.busy = 0
        self.size_bytes = gate.plan.size_bytes
        self.writable = gate.plan.writable
        self.reads = self.writes = self.read_bytes = self.write_bytes = 0
        self.read_ns = self.write_ns = self.flushes = self.errors = self.forwarded = 0
        self._idle: dict[LinkKey, list[Link]] = {}
        """Links at rest, which the pool may reclaim at any time: `pop` and `append` only."""
        self.client = Client(f"{pool.session_prefix}{next(_clients)}", gate.known_loss)
        self.stranded: Link | None = None
        """What the hot path leaves to `_run` after a failure."""
        self._losses_seen = gate.losses()
        self.pin: int | None = None
        gate.handles.add(self)

    def begin(self) -> None:
        self.busy = 1

    def end(self) -> None:
        self.busy = 0

    def close(self) -> None:
        gate = self.gate
        gate.handles.discard(self)
        if not self.epoch:
            gate.totals.add(self)
        for links in self._idle.values():
            while link := _pop(links):
                self.pool.retire(link)

    # --- the other requests ---------------------------------------------------------------------
    def zero(self, offset: int, length: int, *, may_trim: bool, fua: bool, fast: bool) -> None:
        op = Op(ZERO, offset, length)
        op.may_trim, op.fua, op.fast = may_trim, fua, fast
        self._run(op)

    def trim(self, offset: int, length: int, *, fua: int) -> None:
        op = Op(TRIM, offset, length)
        op.fua = bool(fua)
        self._run(op)

    def flush(self) -> None:
        """Every backend and every peer's store of the volume; then whether anything was lost (INV-3)."""
        self._run(Op(FLUSH, 0, 1))

    # --- slow path ------------------------------------------------------------------------------
    def _run(self, op: Op, deadline: float = 0.0) -> None:
        """`deadline` (time.monotonic), if the request has been under way; 0: it has just come."""
        gate = self.gate
        start_ns = _clock_ns()
        if not deadline:
            deadline = time.monotonic() + gate.io_timeout_s
        retry_s = RETRY_FIRST_S
        first_epoch = gate.plan.epoch
        if self.stranded is not None:
            op.doubtful.append(self.stranded)
            self.stranded = None
        try:
            self._check(op)
            while True:
                plan = gate.admit(self, deadline)
                try:
                    if op.pending:
                        self._attempt(plan, op, deadline)
                    if gate.lease_valid(plan):
                        break
                    if op.kind == READ:
                        op.restart()  # what was read may be older than another owner's acknowledged write
                    continue
                except TryAgain as reason:
                    problem = str(reason)
                finally:
                    self.end()
                if time.monotonic() + retry_s >= deadline:
                    raise IoError(errno.EIO, f"{gate.name}: no answer within the I/O timeout: {problem}")
                gate.pause(plan, retry_s)
                retry_s = min(retry_s * 2, RETRY_LAST_S)
        except IoError:
            self.errors += 1
            raise
        finally:
            if op.doubtful:
                self._settle(op)
        took_ns = _clock_ns() - start_ns
        if plan.epoch != first_epoch:
            gate.hold_times.note(plan.epoch, took_ns)  # it waited for a change, wherever that held it up
        self._count(op, took_ns)

    def _check(self, op: Op) -> None:
        if op.kind == FLUSH:
            return
        if (op.offset | op.length) & ALIGN_MASK:
            raise IoError(errno.EINVAL, f"{op.offset}+{op.length} is not aligned to {BLOCK_MIN_BYTES} bytes")

    def _attempt(self, plan: Plan, op: Op, deadline: float) -> None:
        """Do what is pending of `op` by `plan`, and keep what could not be done pending."""
        if plan.copies is not None:
            if op.kind != READ and not plan.writable:
                raise IoError(errno.EROFS, f"{plan.map.name} is read-only")
            plan.copies.run(op, self.client)
            if op.kind == FLUSH:
                self._tell_losses(plan)
            return
        if op.kind == FLUSH:
            self._flush(plan, op, deadline)
            return
        if op.kind != READ and not plan.writable:
            raise IoError(errno.EROFS, f"{plan.map.name} is read-only")
        pieces = plan.pieces(op.pending)
        if op.fast and any(piece.entry.key is not None for piece in pieces):
            raise IoError(errno.EOPNOTSUPP, "zeroing at a peer is not fast")
        if len(pieces) == 1:
            self._one(plan, op, pieces[0], deadline)
        elif pieces:
            self._many(plan, op, pieces, deadline)

    def _one(self, plan: Plan, op: Op, piece: Piece, deadline: float) -> None:
        entry, offset, length = piece
        if entry.key is None:
            self._local(op, entry, offset, length)
        elif op.kind in (ZERO, TRIM) and length > BLOCK_MAX_BYTES:
            self._many(plan, op, [piece], deadline)
            return
        else:
            link = self._take(entry.key, plan, deadline, op)
            try:
                do_remote(op, link, plan.epoch, offset, length, deadline)
            finally:
                self._give(link, op)
        op.pending = []

    def _many(self, plan: Plan, op: Op, pieces: list[Piece], deadline: float) -> None:
        local = [piece for piece in pieces if piece.entry.key is None]
        remote: dict[LinkKey, list[Piece]] = {}
        for piece in pieces:
            if piece.entry.key is not None:
                remote.setdefault(piece.entry.key, []).append(piece)
        left = {(piece.offset, piece.length) for piece in local}
        again: list[TryAgain] = []
        batches: list[Batch] = []
        links: list[Link] = []

        def local_work() -> None:
            for piece in local:
                try:
                    self._local(op, piece.entry, piece.offset, piece.length)
                except RealBusy as busy:
                    again.append(busy)
                    continue
                left.discard((piece.offset, piece.length))

        try:
            for key, some in remote.items():
                jobs = split_jobs(some)
                left.update(jobs)
                try:
                    link = self._take(key, plan, deadline, op)
                    links.append(link)
                    batches.append(Batch(op, link, link.ready(plan.epoch, deadline), jobs))
                except PeerLost as error:
                    again.append(error)
            drive(batches, local_work)
        finally:
            for link in links:
                self._give(link, op)
        for batch in batches:
            left.difference_update(batch.done)
            if isinstance(batch.error, IoError):
                raise batch.error
            if batch.error is not None:
                again.append(batch.error)
        op.pending = sorted(left)
        if again:
            raise again[0]

    def _local(self, op: Op, entry: Entry, offset: int, length: int) -> None:
        try:
            do_local(op, entry, offset, length)
        except OSError as error:
            assert entry.real is not None
            if not (op.fast and error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP)):
                self.watch.real_failed(entry.real, error)
            raise IoError(wire_errno(error.errno), f"real volume {entry.real.real}: {error}") from None

    def _flush(self, plan: Plan, op: Op, deadline: float) -> None:
        links: list[Link] = []
        batches: list[Batch] = []
        try:
            for key in plan.keys:
                link = self._take(key, plan, deadline, op)
                links.append(link)
                if link.vitals is None:
                    link.drop()  # its peer could not tell its losses when we connected: ask again
                handle = link.ready(plan.epoch, deadline)
                if link.vitals is None:
                    link.drop()
                    raise PeerLost(f"{key.peer} cannot reach all stores of {key.volume}")
                batches.append(Batch(op, link, handle, [Job(0, 0)]))
            drive(batches, lambda: self._flush_local(plan))
            for batch in batches:
                if isinstance(batch.error, IoError):
                    self._learn_losses(batch.link, plan, deadline)
                    raise batch.error
                if batch.error is not None:
                    raise batch.error
        finally:
            for link in links:
                self._give(link, op)
        op.pending = []
        self._tell_losses(plan, *(link.vitals.owed for link in links if link.vitals is not None))

    def _tell_losses(self, plan: Plan, *owed: LossMark) -> None:
        """`owed`: by what owners of copies said as we connected. That connection may be newer than the loss,
        so that the owner owes it nothing, and the client's older. Raises IoError."""
        losses, mark = self.gate.losses(), max(owed, default=NO_LOSS)
        if losses != self._losses_seen or mark > self.client.since:
            self._losses_seen = losses
            self.client.told(mark)
            raise IoError(errno.EIO, f"{plan.map.name}: writes since the last flush may have been lost")

    def _flush_local(self, plan: Plan) -> None:
        for real in plan.reals:
            if real.opening or real.history.unsettled:
                raise RealBusy(f"real volume {real.real} is being opened, or flushed for the last time")
            if real.backend is None:
                raise IoError(errno.EIO, real.problem)
            try:
                real.backend.flush()
            except OSError as error:
                self.watch.flush_failed(real, error)
                raise IoError(errno.EIO, f"real volume {real.real}: flush failed: {error}") from None

    def _learn_losses(self, link: Link, plan: Plan, deadline: float) -> None:
        """A peer failed a flush. If it did so because of a loss, its new description says so to all handles
        of this process; this one has told its client with this error and shall not do it twice."""
        link.drop()
        try:
            link.ready(plan.epoch, min(deadline, time.monotonic() + 1.0))
            link.done()
            if link.vitals is not None:
                self.client.told(link.vitals.owed)
        except PeerLost:
            pass  # the next connection will read it
        self._losses_seen = self.gate.losses()

    # --- links ----------------------------------------------------------------------------------
    def _take(self, key: LinkKey, plan: Plan, deadline: float, op: Op | None = None) -> Link:
        if self.pool.unfenced:
            self.pool.fence(key, plan.epoch, deadline)
        if key[0] == FORWARD:
            self.forwarded += 1
        if op is not None:
            for link in op.doubtful:
                if link.key == key:
                    op.doubtful.remove(link)
                    return link
        return _pop(self._idle.get(key)) or self.pool.new_link(key)

    def _give(self, link: Link, op: Op | None = None) -> None:
        link.deadline = 0.0
        if link.unknown:
            assert op is not None, "only a request changes anything"
            op.doubtful.append(link)
            return
        link.used_s = time.monotonic()
        link.home = self._idle.setdefault(link.key, [])
        link.home.append(link)

    def _settle(self, op: Op) -> None:
        """The request has ended: whatever may still run of it at a peer is fenced before anything newer goes
        there (design §5)."""
        while op.doubtful:
            link = op.doubtful.pop()
            if link.unknown:
                link.drop()
                self.pool.leave_unfenced(link)
            else:
                self._give(link)

    def reach_peers(self, deadline: float) -> bool:
        """Connect to every store of the volume; False when one does not answer in time."""
        plan = self.gate.plan
        complete = True
        for key in plan.keys:
            link = None
            try:
                link = self._take(key, plan, deadline)
                link.ready(plan.epoch, deadline)
            except PeerLost:
                complete = False
            finally:
                if link is not None:
                    self._give(link)
        return complete

    # --- the rest -------------------------------------------------------------------------------
    def _count(self, op: Op, took_ns: int) -> None:
        if op.kind == READ:
            self.reads += 1
            self.read_bytes += op.length
            self.read_ns += took_ns
        elif op.kind == FLUSH:
            self.flushes += 1
        else:
            self.writes += 1
            self.write_bytes += op.length if op.kind == WRITE else 0
            self.write_ns += took_ns

    def extents(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """(offset, length, HOLE|ZERO bits), from `offset` on without gaps; data where it is unknown."""
        gate = self.gate
        deadline = time.monotonic() + gate.io_timeout_s
        plan = gate.admit(self, deadline)
        try:
            runs: list[tuple[int, int, int]] = []
            for piece in plan.pieces([(offset, length)]):
                at = piece.offset
                for run, bits in self._extents_of(plan, piece, deadline):
                    if runs and runs[-1][2] == bits:
                        runs[-1] = (runs[-1][0], runs[-1][1] + run, bits)
                    else:
                        runs.append((at, run, bits))
                    at += run
                if len(runs) >= MAX_EXTENTS or at < piece.offset + piece.length:
                    break
            return runs[:MAX_EXTENTS]
        finally:
            self.end()

    def _extents_of(self, plan: Plan, piece: Piece, deadline: float) -> list[tuple[int, int]]:
        entry, offset, length = piece
        try:
            if entry.key is None:
                backend = entry.real.backend if entry.real is not None else None
                return [(length, 0)] if backend is None else backend.extents(offset + entry.delta, length)
            link = self._take(entry.key, plan, deadline)
            try:
                return link.extents(plan.epoch, offset, length, deadline)
            finally:
                self._give(link)
        except (OSError, PeerLost, IoError):
            return [(length, 0)]
