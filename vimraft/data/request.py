"""One client request as the ranges of it that are not done yet, and how its pieces are carried out.

May live here: splitting work over local backends and peers, reassembly. A piece that is done stays done when
others are sent again (INV-5: re-executing an old piece after newer data was read would show older bytes).
"""

import errno
import select
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import nbd

from vimraft.data.errors import IoError, PeerLost, RealBusy
from vimraft.data.remote import FLAG_FUA, Link
from vimraft.data.volume import Entry, Piece

READ, WRITE, ZERO, TRIM, FLUSH = range(5)
MAX_IN_FLIGHT = 8
"""Commands of one request under way on one link."""
MAX_REMOTE_ZERO_BYTES = 1 << 30
DRIVE_POLL_MS = 200
"""Longest sleep between two looks at the deadlines of what is in flight."""


class Op:
    """`pending`: (offset, length) of what is not done; `view` covers `offset … offset+length-1`.

    `doubtful`: links through which a part of this request was sent in vain. They are used again before any
    other, because connecting them again fences what may still be under way."""

    __slots__ = ("doubtful", "fast", "fua", "kind", "length", "may_trim", "offset", "pending", "view")

    def __init__(self, kind: int, offset: int, length: int, view: memoryview | None = None) -> None:
        self.kind = kind
        self.offset = offset
        self.length = length
        self.view = view
        self.pending = [(offset, length)]
        self.fua = self.may_trim = self.fast = False
        self.doubtful: list[Link] = []

    def restart(self) -> None:
        self.pending = [(self.offset, self.length)]

    def part(self, offset: int, length: int) -> memoryview:
        assert self.view is not None
        if offset == self.offset and length == self.length:
            return self.view
        first = offset - self.offset
        return self.view[first : first + length]


def do_local(op: Op, entry: Entry, offset: int, length: int) -> None:
    """Raises OSError, IoError or RealBusy."""
    backend = entry.real.backend if entry.real is not None else None
    if backend is None:
        if entry.real is not None and entry.real.opening:
            raise RealBusy(entry.real.problem)
        why = entry.real.problem if entry.real is not None else "no real volume lies there"
        raise IoError(errno.EIO, f"bytes {offset}+{length}: {why}")
    where = offset + entry.delta
    if op.kind == READ:
        backend.read_into(op.part(offset, length), where)
    elif op.kind == WRITE:
        backend.write(op.part(offset, length), where, fua=op.fua)
    elif op.kind == ZERO:
        backend.zero(where, length, may_trim=op.may_trim, fua=op.fua, fast=op.fast)
    else:
        backend.trim(where, length, fua=op.fua)


def do_remote(op: Op, link: Link, epoch: int, offset: int, length: int, deadline: float) -> None:
    """One piece, blocking (the interpreter lock is released). Raises IoError or PeerLost."""
    handle = link.ready(epoch, deadline)
    flags = FLAG_FUA if op.fua else 0
    try:
        if op.kind == READ:
            op.part(offset, length)[:] = handle.pread(length, offset)
        else:
            link.unknown = True
            if op.kind == WRITE:
                handle.pwrite(op.part(offset, length), offset, flags)
            elif op.kind == ZERO:
                if not op.may_trim:
                    flags |= nbd.CMD_FLAG_NO_HOLE
                handle.zero(length, offset, flags)
            else:
                handle.trim(length, offset, flags)
    except nbd.Error as error:
        link.fail(error)
    link.done()


class Job(NamedTuple):
    offset: int
    length: int


class Batch:
    """The pieces of one request that go down one link, several in flight."""

    def __init__(self, op: Op, link: Link, handle: nbd.NBD, jobs: Sequence[Job]) -> None:
        self.op = op
        self.link = link
        self.handle = handle
        self.fd = handle.aio_get_fd()
        self.todo = list(reversed(jobs))
        self.running: dict[int, Job] = {}
        self.done: list[Job] = []
        self.error: IoError | PeerLost | None = None
        self.lost = False
        """The connection is gone, and the outcome of what was in flight with it."""

    @property
    def busy(self) -> bool:
        return bool(self.running) or (bool(self.todo) and self.error is None)

    def push(self) -> None:
        while self.todo and self.error is None and len(self.running) < MAX_IN_FLIGHT:
            job = self.todo.pop()
            try:
                self.running[self._start(job)] = job
            except nbd.Error as error:
                self._fail(error)

    def _start(self, job: Job) -> int:
        op, handle = self.op, self.handle
        flags = FLAG_FUA if op.fua else 0
        if op.kind == READ:
            part = nbd.Buffer.from_buffer(op.part(job.offset, job.length))
            return handle.aio_pread(part, job.offset)
        self.link.unknown = True
        if op.kind == WRITE:
            part = nbd.Buffer.from_buffer(op.part(job.offset, job.length))
            return handle.aio_pwrite(part, job.offset, flags=flags)
        if op.kind == FLUSH:
            return handle.aio_flush()
        if op.kind == ZERO:
            if not op.may_trim:
                flags |= nbd.CMD_FLAG_NO_HOLE
            return handle.aio_zero(job.length, job.offset, flags=flags)
        return handle.aio_trim(job.length, job.offset, flags=flags)

    def _fail(self, error: nbd.Error) -> None:
        """The first answer counts: an error that a peer has told is not hidden by what breaks later."""
        verdict = self.link.verdict(error)
        self.lost |= isinstance(verdict, PeerLost)
        if self.error is None:
            self.error = verdict

    def direction(self) -> int:
        return {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}.get(
            self.handle.aio_get_direction(), select.POLLIN
        )

    def step(self, events: int) -> None:
        try:
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self.handle.aio_notify_read()
            elif events & select.POLLOUT:
                self.handle.aio_notify_write()
        except nbd.Error as error:
            self._fail(error)
        self.reap()

    def reap(self) -> None:
        for cookie in tuple(self.running):
            try:
                if not self.handle.aio_command_completed(cookie):
                    continue
            except nbd.Error as error:
                del self.running[cookie]
                self._fail(error)
                continue
            self.done.append(self.running.pop(cookie))
        if self.lost:
            self.running.clear()

    def finish(self) -> None:
        """Nothing is in flight. After a loss the link's `unknown` stays, so that it is fenced."""
        if not self.lost:
            self.link.done()


def drive(batches: Sequence[Batch], local_work: Callable[[], None]) -> None:
    """Run the batches to their end with `local_work` between sending and waiting.

    Nothing is in flight when this returns or raises; each batch then holds what it did and its error.
    """
    for batch in batches:
        batch.push()
    try:
        local_work()
    finally:
        poller = select.poll()
        while live := [batch for batch in batches if batch.busy]:
            by_fd = {}
            for batch in live:
                poller.register(batch.fd, batch.direction())
                by_fd[batch.fd] = batch
            for fd, events in poller.poll(DRIVE_POLL_MS):
                by_fd[fd].step(events)
            now = time.monotonic()
            for batch in live:
                poller.unregister(batch.fd)
                if batch.link.overdue(now):
                    batch.link.abort()
                batch.reap()
                batch.push()
        for batch in batches:
            batch.finish()


def split_jobs(pieces: Sequence[Piece]) -> list[Job]:
    """Remote pieces as commands of a bounded size."""
    jobs = []
    for piece in pieces:
        offset, left = piece.offset, piece.length
        while left:
            step = min(left, MAX_REMOTE_ZERO_BYTES)
            jobs.append(Job(offset, step))
            offset += step
            left -= step
    return jobs
