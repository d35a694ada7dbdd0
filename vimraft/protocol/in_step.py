"""What a resync has brought into step for good: kept at the stores of the copy, so that the next attempt goes
on where this one ended, after whatever restart.

May live here: asking for it, and telling it as copying goes on. Keeps INV-4:

- A region is told when the copy has flushed it. What could not be flushed is copied again.
- What is told is *as of an epoch*: of the map by which the first of these regions was read. Whatever was
  written in that epoch or later has a tag in the record of those in step, and is copied again.
- It counts only under the id of that record. Whoever is promoted meanwhile takes over its tags.
"""

from collections.abc import Callable
from typing import Literal

from vimraft.core.ids import LocalName
from vimraft.protocol.asks import Answer, Ask, AskKind
from vimraft.protocol.desk import Desk
from vimraft.protocol.maps import Copy

Found = Callable[[set[int] | None], None]


class Kept:
    def __init__(self, desk: Desk, name: LocalName, lost: Callable[[], None]) -> None:
        """`lost` is called when the copy could not flush: the kernel forgets what it could not write, and the
        next flush says nothing of it."""
        self._desk = desk
        self._name = name
        self._lost = lost
        self.since = 0
        """Epoch of the map by which what is in step was read; 0: nothing is."""
        self._step: Literal["", "asking", "comparing", "flushing", "telling"] = ""
        self._found: Found
        self._source: Copy
        self._known: set[int] = set()
        self._answers: list[Answer] = []
        self._left = 0
        self._new: list[int] = []
        self._batch: list[int] = []

    def ask(self, copy: Copy, source: Copy, found: Found) -> None:
        """`found` is told what all its stores know to be in step, and `source` was not written since; None:
        one of them did not answer."""
        self._step, self._found, self._source = "asking", found, source
        self._ask(copy, "what_is_in_step")

    def begin(self) -> None:
        """What was known is of no use: regions are read by the present map from now on."""
        self.since = self._desk.map.epoch

    def copied(self, region: int) -> None:
        self._new.append(region)
        copy = self._desk.map.copy(self._name)
        if len(self._new) >= self._desk.limits.in_step_regions and not self._step and copy is not None:
            self._batch, self._new = self._new, []
            self._step = "flushing"
            self._ask(copy, "flush")

    def _ask(self, copy: Copy, kind: AskKind) -> None:
        desk, some = self._desk, tuple(self._batch) if kind == "in_step" else ()
        self._left = len(copy.stores)
        for store in copy.stores:
            ask = Ask(kind, store, copy.name, 0, desk.map.size_bytes, self, regions=some, since=self.since)
            ask.record = desk.record
            desk.ask(ask)

    def answered(self, _ask: Ask, answer: Answer) -> None:
        self._left -= 1
        self._answers.append(answer)
        if self._left:
            return
        answers, self._answers = self._answers, []
        step, self._step = self._step, ""
        done = all(one.how == "done" for one in answers)
        if step in ("asking", "comparing"):
            if not done:
                self._tell_finder(None)
            elif step == "asking":
                self._know(answers)
            else:
                self._compare(answers)
        elif any(one.how in ("failed", "away") for one in answers):
            self._new.clear()
            self._lost()
        elif not done:
            self._new += self._batch  # with the next ones
        elif step == "flushing":
            self._tell()

    def _know(self, answers: list[Answer]) -> None:
        first = answers[0]
        same = all((one.since, one.record) == (first.since, first.record) for one in answers)
        self._known = set(first.regions).intersection(*(one.regions for one in answers[1:]))
        if not same or not self._known or first.record != self._desk.record:
            self._tell_finder(set())
            return
        self.since = first.since
        self._step = "comparing"
        self._ask(self._source, "missed")

    def _compare(self, answers: list[Answer]) -> None:
        if any(one.record != self._desk.record for one in answers):
            self._tell_finder(set())  # what was written since is not known there
        else:
            self._tell_finder(self._known.difference(*(one.regions for one in answers)))

    def _tell_finder(self, found: set[int] | None) -> None:
        self._known = set()
        self._found(found)

    def _tell(self) -> None:
        desk = self._desk
        missing = desk.missing.get(self._name, ())
        self._batch = [region for region in self._batch if region not in missing]
        copy = desk.map.copy(self._name)
        if self._batch and copy is not None:
            self._step = "telling"
            self._ask(copy, "in_step")
