"""The real volumes that this process is told of, and their lives: opened, tried again, replaced, retired.

May live here: which `RealSlot` is the present one of a real volume, and the workers that open and close. An
open may take as long as a silent server likes; nobody waits for it: the slot says `opening` and is swapped
for an open one later, a superseded open is closed again. All changes happen under the engine's change lock.
Keeps INV-3: losses of a former life are handed over, and no flush succeeds before it was flushed and closed.
"""

import contextlib
import threading
import time
from collections.abc import Callable

from vimraft.data.feed import BackendSpec, IoCounters, MapUpdate, Problem
from vimraft.data.reals import History, Opener, RealSlot, close_slot, open_slot, opening_slot
from vimraft.data.workers import Workers

MAX_OPENERS = 32
"""Real volumes that are opened, flushed or closed at one time."""
OPEN_GRACE_S = 0.1
"""How long a change waits for its real volumes: whatever is healthy and near is open by then."""
REOPEN_S = 3.0
"""Between two tries to open a real volume that is missing."""


class RealTable:
    """`replaced(real)` is called under `change` when a real volume has another slot: swap all plans on it."""

    def __init__(
        self,
        opener: Opener,
        change: threading.RLock,
        *,
        replaced: Callable[[str], None],
        report: Callable[[Problem], None],
        bug: Callable[[Exception], None],
    ) -> None:
        self._opener = opener
        self._change = change
        self._replaced = replaced
        self._report = report
        self._workers = Workers("real-volumes", MAX_OPENERS, bug)
        self._slots: dict[str, RealSlot] = {}
        self._histories: dict[str, History] = {}
        self._next_reopen = 0.0

    # --- looking --------------------------------------------------------------------------------
    def slot(self, real: str) -> RealSlot:
        slot = self._slots.get(real)
        if slot is None:
            spec = BackendSpec(real, "", "", "", 0, "its manager did not describe it")
            slot = RealSlot(spec, None, "told", f"real volume {real}: {spec.failed}", 0)
        return slot

    def slots(self) -> list[RealSlot]:
        return list(self._slots.values())

    def problems(self) -> list[Problem]:
        found = (slot.report() for slot in self.slots())
        return [problem for problem in found if problem is not None]

    def counters(self) -> dict[str, IoCounters]:
        found = {}
        for slot in self.slots():
            if slot.backend is not None:
                c = slot.backend.counters
                found[slot.real] = IoCounters(
                    c.reads, c.writes, c.read_bytes, c.write_bytes, c.read_ns, c.write_ns, c.flushes, c.errors
                )
        return found

    # --- changes, under the change lock -----------------------------------------------------------
    def install(self, update: MapUpdate) -> tuple[set[str], list[RealSlot]]:
        """Returns what has another slot now, and the slots to retire once no plan uses them."""
        specs = {spec.real: spec for spec in update.backends}
        gone = set(update.removed_backends) - specs.keys()
        if update.full:
            gone |= self._slots.keys() - specs.keys()
        retired = [self._slots.pop(real) for real in gone if real in self._slots]
        for slot in retired:
            self._note_unsettled(slot)
            self._forget_history(slot)
        opening: list[tuple[RealSlot, _Opening]] = []
        changed = set(gone)
        for real, spec in specs.items():
            old = self._slots.get(real)
            if old is not None and old.spec == spec:
                continue
            slot = open_slot(spec, self._opener, 0) if spec.failed else opening_slot(spec, 0)
            if old is not None:
                retired.append(old)
            self._put(slot, old)
            changed.add(real)
            if slot.opening:
                opening.append((slot, self._start(slot)))
        deadline = time.monotonic() + OPEN_GRACE_S
        for slot, work in opening:
            if work.done.wait(max(0.0, deadline - time.monotonic())):
                self._adopt(slot, work)
        return changed, retired

    def retire(self, slot: RealSlot) -> None:
        """After every plan that used it is gone."""
        if slot.backend is not None:
            self._workers.submit(lambda: self._close(slot), urgent=True)

    def reopen_missing(self) -> None:
        """Called about once a second: try real volumes again that could not be opened, or went away."""
        if time.monotonic() < self._next_reopen:
            return
        self._next_reopen = time.monotonic() + REOPEN_S
        for slot in self.slots():
            missing = slot.lost or (slot.backend is None and not slot.spec.failed)
            if missing and not slot.opening and not slot.trying:
                slot.trying = True
                self._start(slot, urgent=False)

    # --- the workers' side ------------------------------------------------------------------------
    def _start(self, slot: RealSlot, *, urgent: bool = True) -> "_Opening":
        work = _Opening()

        def run() -> None:
            work.fresh = open_slot(slot.spec, self._opener, 0)
            work.done.set()
            with self._change:
                slot.trying = False
                self._finish(slot, work)

        self._workers.submit(run, urgent=urgent)
        return work

    def _finish(self, slot: RealSlot, work: "_Opening") -> None:
        if work.adopted:
            return
        if self._slots.get(slot.real) is not slot:
            backend = work.fresh.backend
            if backend is not None:
                with contextlib.suppress(OSError):
                    backend.close()  # superseded; it was never written to
            return
        if not slot.opening and not slot.lost and work.fresh.problem == slot.problem:
            return
        self._adopt(slot, work)
        self._replaced(slot.real)
        self.retire(slot)

    def _adopt(self, slot: RealSlot, work: "_Opening") -> None:
        work.adopted = True
        self._put(work.fresh, slot)
        problem = work.fresh.report()
        if problem is not None:
            self._report(problem)

    def _put(self, slot: RealSlot, old: RealSlot | None) -> None:
        slot.history = self._histories.setdefault(slot.real, History())
        if old is not None:
            slot.base_losses = old.losses
            self._note_unsettled(old)
        self._slots[slot.real] = slot

    def _note_unsettled(self, slot: RealSlot) -> None:
        if slot.backend is not None:
            slot.handed_over = slot.losses
            slot.history.unsettled += 1

    def _close(self, slot: RealSlot) -> None:
        losses = close_slot(slot)
        with self._change:
            heir = self._slots.get(slot.real)
            if heir is not None:
                heir.base_losses += losses - slot.handed_over
            slot.history.unsettled -= 1
            self._forget_history(slot)

    def _forget_history(self, slot: RealSlot) -> None:
        if slot.real not in self._slots and not slot.history.unsettled:
            self._histories.pop(slot.real, None)


class _Opening:
    """One try to open. `fresh` is there when `done` is set; `adopted` is changed under the change lock."""

    __slots__ = ("adopted", "done", "fresh")

    fresh: RealSlot

    def __init__(self) -> None:
        self.adopted = False
        self.done = threading.Event()
