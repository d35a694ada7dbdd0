"""One NBD connection to one volume: the hot path.

May live here: a request that lies in one segment, local or at a peer, while the gate is open: one lookup, one
system call or one exchange with the peer; and an ordinary one that the owner of several copies carries out.
Everything else falls through to `SlowPath._run`.
"""

import os
import threading
import time
from bisect import bisect_right

import nbd

from vimraft.data.copies.volumes import MAX_REQUEST_BYTES, OwnedVolume
from vimraft.data.errors import IoError
from vimraft.data.gate import VolumeGate
from vimraft.data.remote import Link, LinkKey, LinkPool
from vimraft.data.request import READ, WRITE, Op
from vimraft.data.slow_path import ALIGN_MASK, SlowPath, Watch
from vimraft.data.volume import Plan

_preadv, _pwritev, _clock_ns, _monotonic = os.preadv, os.pwritev, time.perf_counter_ns, time.monotonic
_DONE = -1.0
"""Of `_read_far` and `_write_far`; another result is the deadline for `_run` (0: a new one)."""


class Handle(SlowPath):
    """What nbdkit's callbacks use."""

    __slots__ = ()

    # --- hot path -------------------------------------------------------------------------------
    def read(self, buf: memoryview, offset: int) -> None:
        """Raises IoError."""
        self.busy = 1
        deadline = 0.0
        plan = self.gate.fast
        if plan is not None:
            length = len(buf)
            end, fd, _, delta, counters, _, key = plan.fast[bisect_right(plan.starts, offset) - 1]
            if fd >= 0 and offset + length <= end and not (offset | length) & ALIGN_MASK:
                start_ns = _clock_ns()
                try:
                    got = _preadv(fd, (buf,), offset + delta)
                except OSError:
                    got = -1
                if got == length:
                    took_ns = _clock_ns() - start_ns
                    self.busy = 0
                    self.reads += 1
                    self.read_bytes += length
                    self.read_ns += took_ns
                    counters.reads += 1
                    counters.read_bytes += length
                    counters.read_ns += took_ns
                    return
            elif key is not None and offset + length <= end and not (offset | length) & ALIGN_MASK:
                deadline = self._read_far(plan, key, buf, offset, length)
                if deadline == _DONE:
                    return
            elif plan.copies is not None and self._read_copies(plan, plan.copies, buf, offset):
                return
        self.busy = 0
        self._run(Op(READ, offset, len(buf), buf), deadline)

    def write(self, buf: memoryview, offset: int, fua: int) -> None:
        """`fua` is true or false (the flag's bit as it came). Raises IoError."""
        self.busy = 1
        deadline = 0.0
        plan = self.gate.fast
        if plan is not None and not fua:
            length = len(buf)
            end, _, fd, delta, counters, backend, key = plan.fast[bisect_right(plan.starts, offset) - 1]
            if (
                fd >= 0
                and offset + length <= end
                and not (offset | length) & ALIGN_MASK
                and not backend.broken
            ):
                start_ns = _clock_ns()
                try:
                    got = _pwritev(fd, (buf,), offset + delta)
                except OSError:
                    got = -1
                if got == length:
                    took_ns = _clock_ns() - start_ns
                    self.busy = 0
                    self.writes += 1
                    self.write_bytes += length
                    self.write_ns += took_ns
                    counters.writes += 1
                    counters.write_bytes += length
                    counters.write_ns += took_ns
                    return
            elif key is not None and offset + length <= end and not (offset | length) & ALIGN_MASK:
                deadline = self._write_far(plan, key, buf, offset, length)
                if deadline == _DONE:
                    return
            elif plan.copies is not None and self._write_copies(plan, plan.copies, buf, offset):
                return
        self.busy = 0
        op = Op(WRITE, offset, len(buf), buf)
        op.fua = bool(fua)
        self._run(op, deadline)

    def _read_copies(self, plan: Plan, copies: OwnedVolume, buf: memoryview, offset: int) -> bool:
        """False: it was not done, and `_run` does it from the beginning. Raises IoError."""
        length = len(buf)
        if length > MAX_REQUEST_BYTES or offset + length > plan.size_bytes or (offset | length) & ALIGN_MASK:
            return False
        start_ns = _clock_ns()
        try:
            done = copies.read(buf, offset, self.client)
        except IoError:
            self.busy = 0
            self.errors += 1
            raise
        if done:
            self.busy = 0
            self.reads += 1
            self.read_bytes += length
            self.read_ns += _clock_ns() - start_ns
        return done

    def _write_copies(self, plan: Plan, copies: OwnedVolume, buf: memoryview, offset: int) -> bool:
        """As `_read_copies`."""
        length = len(buf)
        if length > MAX_REQUEST_BYTES or offset + length > plan.size_bytes or (offset | length) & ALIGN_MASK:
            return False
        start_ns = _clock_ns()
        try:
            done = plan.writable and copies.write(buf, offset, self.client)
        except IoError:
            self.busy = 0
            self.errors += 1
            raise
        if done:
            self.busy = 0
            self.writes += 1
            self.write_bytes += length
            self.write_ns += _clock_ns() - start_ns
        return done

    def _far_link(self, plan: Plan, key: LinkKey) -> Link | None:
        """A connected link of the present epoch, out of its home, ready for use by the hot path."""
        links = self._idle.get(key)
        unfenced = self.pool.unfenced
        if not links or (unfenced and key in unfenced):
            return None
        try:
            link = links.pop()
        except IndexError:  # the pool has just reclaimed it
            return None
        if link.handle is None or link.epoch != plan.epoch:
            links.append(link)
            return None
        link.used_s = now_s = _monotonic()
        link.deadline = now_s + self.gate.io_timeout_s
        return link

    def _read_far(self, plan: Plan, key: LinkKey, buf: memoryview, offset: int, length: int) -> float:
        """One remote piece, blocking; nothing happens that `_run` could not do over again."""
        link = self._far_link(plan, key)
        if link is None:
            return 0.0
        start_ns = _clock_ns()
        try:
            buf[:] = link.handle.pread(length, offset)  # type: ignore[union-attr]
        except nbd.Error:
            self.stranded = link
            return link.deadline
        link.deadline = 0.0
        link.home.append(link)  # type: ignore[union-attr]
        self.busy = 0
        self.forwarded += 1
        self.reads += 1
        self.read_bytes += length
        self.read_ns += _clock_ns() - start_ns
        return _DONE

    def _write_far(self, plan: Plan, key: LinkKey, buf: memoryview, offset: int, length: int) -> float:
        """As `_read_far`. What was sent in vain is sent again by `_run`, through a newer generation."""
        link = self._far_link(plan, key)
        if link is None:
            return 0.0
        start_ns = _clock_ns()
        link.unknown = True
        try:
            link.handle.pwrite(buf, offset)  # type: ignore[union-attr]
        except nbd.Error:
            self.stranded = link
            return link.deadline
        link.unknown = False
        link.deadline = 0.0
        link.home.append(link)  # type: ignore[union-attr]
        self.busy = 0
        self.forwarded += 1
        self.writes += 1
        self.write_bytes += length
        self.write_ns += _clock_ns() - start_ns
        return _DONE


class PeerHandle(Handle):
    """For another manager: its epoch and session are checked at every request, after `busy` is set, so that
    whoever supersedes it sees the running request or is seen by it."""

    __slots__ = ()

    def read(self, buf: memoryview, offset: int) -> None:
        self.busy = 1
        plan = self.gate.fast
        if plan is None or self.superseded or plan.epoch != self.epoch:
            self.busy = 0
            self._run(Op(READ, offset, len(buf), buf))
        else:
            super().read(buf, offset)

    def write(self, buf: memoryview, offset: int, fua: int) -> None:
        self.busy = 1
        plan = self.gate.fast
        if fua or plan is None or self.superseded or plan.epoch != self.epoch:
            self.busy = 0
            op = Op(WRITE, offset, len(buf), buf)
            op.fua = bool(fua)
            self._run(op)
        else:
            super().write(buf, offset, fua)


class ParallelHandle(Handle):
    """For PARALLEL: several requests of one handle at a time, so `busy` is a count."""

    __slots__ = ("_lock",)

    def __init__(self, gate: VolumeGate, pool: LinkPool, watch: Watch, epoch: int = 0) -> None:
        self._lock = threading.Lock()
        super().__init__(gate, pool, watch, epoch)

    def begin(self) -> None:
        with self._lock:
            self.busy += 1

    def end(self) -> None:
        with self._lock:
            self.busy -= 1

    def read(self, buf: memoryview, offset: int) -> None:
        self._run(Op(READ, offset, len(buf), buf))

    def write(self, buf: memoryview, offset: int, fua: int) -> None:
        op = Op(WRITE, offset, len(buf), buf)
        op.fua = bool(fua)
        self._run(op)
