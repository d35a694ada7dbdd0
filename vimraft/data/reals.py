"""The real volumes of this site as this process has them open.

May live here: opening, label check, closing. A `RealSlot` is one life of one real
volume in this process; it is replaced, never reopened in place, so that a plan never changes under a
running request. Keeps: nothing is read from or written to a real volume whose label was not verified.
"""

import errno
from collections.abc import Callable
from typing import Literal

from vimraft.core.ids import LABEL_BYTES
from vimraft.data.backends.base import Backend, BackendError
from vimraft.data.feed import BackendSpec, Problem

Opener = Callable[[BackendSpec], Backend]
GONE = frozenset((errno.ENODEV, errno.ENXIO, errno.EBADF, errno.ESTALE, errno.ENOMEDIUM))
"""Errors of a device that went away: it is opened anew (and its label verified) before further use."""


def open_labelled(spec: BackendSpec) -> Backend:
    """Raises BackendError or OSError."""
    from vimraft.data.backends.open import open_backend
    from vimraft.data.label import verify_label

    backend = open_backend(spec.uri)
    try:
        verify_label(backend, spec)
    except BaseException:
        backend.close()
        raise
    return backend


class History:
    """What the lives of one real volume share. `unsettled`: former lives that are not flushed and closed yet;
    until then no flush succeeds (INV-3)."""

    __slots__ = ("unsettled",)

    def __init__(self) -> None:
        self.unsettled = 0


class RealSlot:
    __slots__ = (
        "backend", "base_losses", "handed_over", "history", "kind", "lost", "opening", "problem", "real",
        "spec", "trying",
    )  # fmt: skip

    def __init__(
        self, spec: BackendSpec, backend: Backend | None, kind: str, problem: str, base_losses: int
    ) -> None:
        self.history = History()
        self.opening = False
        """It is being opened for the first time: I/O to it waits."""
        self.trying = False
        """A missing one is being tried again: I/O to it fails meanwhile."""
        self.real = spec.real
        self.spec = spec
        self.backend = backend
        self.kind = kind
        self.problem = problem
        """Why there is no backend."""
        self.base_losses = base_losses
        """Losses of earlier lives."""
        self.handed_over = 0
        """Losses that the next life began with; what comes to light later is added to it."""
        self.lost = ""
        """Set when the device went away during I/O: replace this slot."""

    @property
    def losses(self) -> int:
        return self.base_losses + (self.backend.losses if self.backend is not None else 0)

    @property
    def volatile(self) -> bool:
        """Unflushed writes may not survive this process (they are not in this host's page cache)."""
        return self.backend is not None and self.backend.fd < 0

    def report(self) -> Problem | None:
        if self.backend is not None or self.kind == "told" or self.opening:
            return None
        kind: Literal["missing", "label", "io", "flush"] = "io"
        if self.kind in ("missing", "label", "flush"):
            kind = self.kind  # type: ignore[assignment]
        return Problem(self.real, kind, self.problem)


def open_slot(spec: BackendSpec, opener: Opener, base_losses: int) -> RealSlot:
    """Never raises: a real volume that cannot be used has a `problem`."""
    if spec.failed:
        return RealSlot(spec, None, "told", f"real volume {spec.real} is failed: {spec.failed}", base_losses)
    try:
        backend = opener(spec)
    except BackendError as error:
        return RealSlot(spec, None, error.kind, f"real volume {spec.real}: {error}", base_losses)
    except Exception as error:  # noqa: BLE001 - whatever a device or server says makes it unusable, no more
        text = f"real volume {spec.real}: {spec.uri}: {error}"
        return RealSlot(spec, None, "missing", text, base_losses)
    needed = spec.capacity_bytes + LABEL_BYTES
    if backend.size_bytes < needed:
        text = f"real volume {spec.real}: {spec.uri} has {backend.size_bytes} bytes, its tables need {needed}"
        backend.close()
        return RealSlot(spec, None, "missing", text, base_losses)
    return RealSlot(spec, backend, "", "", base_losses)


def opening_slot(spec: BackendSpec, base_losses: int) -> RealSlot:
    slot = RealSlot(spec, None, "opening", f"real volume {spec.real} is being opened", base_losses)
    slot.opening = True
    return slot


def close_slot(slot: RealSlot) -> int:
    """Close for good; returns the losses that its successor starts with (INV-3): a flush that fails now
    means that acknowledged writes may be gone."""
    backend = slot.backend
    if backend is None:
        return slot.losses
    more = 0
    if slot.lost:
        more += 1
    else:
        try:
            backend.flush()
        except OSError:
            more += 1
    losses = slot.losses + more  # after the flush: it may itself notice that a session was lost
    try:
        backend.close()
    except OSError:
        losses += 1
    return losses
