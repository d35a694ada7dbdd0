"""The checkers, fed with forged histories: each kind of wrong must be found, and nothing that is right."""

import random
from itertools import permutations
from math import inf

import pytest

from tests.simulation.cluster import losses
from tests.simulation.cluster.linear import Event, _search, problem_of
from tests.simulation.cluster.record import GARBLED, ZERO, Operation, Record, bytes_of, tags_in


def w(tag: int, begin: float, end: float = inf) -> Event:
    return Event(tag, begin, end, True, f"write {tag}")


def r(tag: int, begin: float, end: float) -> Event:
    return Event(tag, begin, end, False, f"read {tag}")


RIGHT = {
    "one after the other": [w(1, 1, 2), r(1, 3, 4), w(2, 5, 6), r(2, 7, 8)],
    "at first there are zeros": [r(ZERO, 1, 2), w(1, 3, 4), r(1, 5, 6)],
    "a read beside a write sees either": [w(1, 1, 2), w(2, 3, 8), r(2, 4, 5), r(2, 6, 7)],
    "no end, never seen": [w(1, 1, 2), w(2, 3), r(1, 9, 10)],
    "no end, seen late": [w(2, 1), w(1, 3, 4), r(1, 5, 6), r(2, 9, 10)],
    "writes beside each other, read in either order": [w(1, 1, 9), w(2, 2, 8), r(2, 10, 11)],
}
WRONG = {
    "an acknowledged write is not seen": [w(1, 1, 2), r(ZERO, 3, 4)],
    "older bytes after newer ones": [w(1, 1, 2), w(2, 3, 9), r(2, 4, 5), r(1, 6, 7)],
    "an acknowledged write is lost": [w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)],
    "back and forth": [w(1, 1), w(2, 2), r(1, 3, 4), r(2, 5, 6), r(1, 7, 8)],
    "never written": [w(1, 1, 2), r(7, 3, 4)],
    "garbled": [w(1, 1, 2), r(GARBLED, 3, 4)],
    "seen before it was written": [r(1, 1, 2), w(1, 3, 4)],
    "two reads disagree on the order": [w(1, 1, 9), w(2, 1, 9), r(1, 10, 11), r(2, 12, 13)],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_histories_are_found_right(name) -> None:
    assert problem_of(RIGHT[name]) is None
    assert _search(RIGHT[name], (ZERO,)) is None


@pytest.mark.parametrize("name", WRONG)
def test_wrong_histories_are_found_wrong(name) -> None:
    assert problem_of(WRONG[name]) is not None
    assert _search(WRONG[name], (ZERO,)) is not None


def dumb(events: list[Event]) -> bool:
    """Every order of every choice of what took effect."""
    certain = [one for one in events if one.end < inf]
    maybe = [one for one in events if one.end == inf]
    for chosen in range(1 << len(maybe)):
        some = certain + [one for at, one in enumerate(maybe) if chosen >> at & 1]
        for order in permutations(some):
            content, right = ZERO, True
            for at, one in enumerate(order):
                right = right and all(one.begin <= later.end for later in order[at:])
                right = right and (one.is_write or one.tag == content)
                content = one.tag if one.is_write else content
            if right:
                return True
    return False


def test_the_zones_and_the_search_agree_with_trying_every_order() -> None:
    rng = random.Random(7)
    verdicts = []
    for _ in range(400):
        stamps = rng.sample(range(20), 12)
        events = []
        for number in range(rng.randrange(2, 6)):
            begin, end = sorted(stamps[2 * number : 2 * number + 2])
            if rng.random() < 0.45:
                events.append(w(number + 1, begin, inf if rng.random() < 0.3 else end))
            else:
                events.append(r(rng.choice((ZERO, 1, 1, 2, 3)), begin, end))
        verdicts.append(dumb(events))
        assert (problem_of(events) is None) == verdicts[-1], events
        assert (_search(events, (ZERO,)) is None) == verdicts[-1], events
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9


def test_zeros_that_were_written_are_told_from_zeros_that_were_lost() -> None:
    zeroed = [w(1, 1, 2), w(ZERO, 3, 4), r(ZERO, 5, 6), w(2, 7, 8)]
    assert problem_of([*zeroed, r(2, 9, 10)]) is None
    assert problem_of([*zeroed, r(ZERO, 9, 10)]) is not None


class Story:
    """A record told line by line: each operation ends before the next one begins, unless it is left open."""

    def __init__(self) -> None:
        self.record = Record()
        self.record.session("s", "v", 1)

    def write(self, how: str = "done", *, fua: bool = False) -> int:
        made = self.begin(fua=fua)
        if how != "open":
            self.end(made, how)
        return made.tags[0]

    def begin(self, *, fua: bool = False) -> Operation:
        return self.record.begin("c", "s", "v", "write", 0.0, first=3, sectors=1, fua=fua)

    def end(self, operation: Operation, how: str = "done") -> None:
        self.record.end(operation, how, 0.0)  # type: ignore[arg-type]

    def read(self, tag: int) -> None:
        made = self.record.begin("c", "s", "v", "read", 0.0, first=3, sectors=1)
        self.record.end(made, "done", 0.0, bytes_of((tag,)))

    def flush(self, how: str = "done", session: str = "s") -> None:
        made = self.record.begin("c", session, "v", "flush", 0.0)
        self.record.end(made, how, 0.0)  # type: ignore[arg-type]

    def lose(self) -> None:
        self.record.lost("v", 9)

    @property
    def problems(self) -> list[str]:
        return list(losses.problems(self.record))


def test_an_acknowledged_write_that_is_gone_is_found() -> None:
    story = Story()
    old = story.write()
    story.write()
    story.read(old)
    assert len(story.problems) == 1


def test_after_eio_a_write_is_there_or_not_but_does_not_come_later() -> None:
    story = Story()
    old = story.write()
    failed = story.write("failed")
    story.read(old)
    assert story.problems == []
    story.read(failed)
    assert len(story.problems) == 1
    story = Story()
    story.write()
    failed = story.write("failed")
    story.read(failed)
    assert story.problems == []


def test_a_write_of_which_nobody_knows_may_come_later() -> None:
    story = Story()
    old = story.write()
    unknown = story.write("gone")
    story.read(old)
    story.read(unknown)
    assert story.problems == []
    story.read(old)
    assert len(story.problems) == 1


def test_a_loss_may_take_what_was_not_flushed() -> None:
    story = Story()
    old = story.write()
    story.flush()
    story.write()
    story.lose()
    story.read(old)
    story.flush("failed")
    assert story.problems == []


def test_a_loss_never_takes_what_was_flushed() -> None:
    for flush_by_fua in (False, True):
        story = Story()
        old = story.write()
        story.write(fua=flush_by_fua)
        if not flush_by_fua:
            story.flush()
        story.lose()
        story.read(old)
        assert len(story.problems) == 1
        story = Story()
        story.write(fua=flush_by_fua)
        if not flush_by_fua:
            story.flush()
        story.lose()
        story.read(ZERO)
        assert len(story.problems) == 1


def test_after_a_loss_reads_agree_on_what_is_left() -> None:
    story = Story()
    old, new = story.write(), story.write()
    story.lose()
    story.read(old)
    assert story.problems == []
    story.read(new)
    assert len(story.problems) == 1


def test_while_pages_are_dropped_reads_see_either_and_afterwards_one() -> None:
    story = Story()
    old = story.write()
    story.flush()
    new = story.write()
    loss = story.record.not_flushed("v", told=True)
    story.read(new)
    story.read(old)
    story.flush("failed")
    loss.until = story.record.stamp()
    story.read(old)
    assert story.problems == []
    story.read(new)
    assert len(story.problems) == 1


def test_dropped_pages_excuse_no_other_loss() -> None:
    for before in (False, True):
        story = Story()
        old = story.write()
        flushed = story.write(fua=before)
        loss = story.record.not_flushed("v", told=True)
        story.flush("failed")
        loss.until = story.record.stamp()
        last = flushed if before else story.write()
        story.read(last)
        assert story.problems == []
        story.read(old)
        assert len(story.problems) == 1


def test_who_must_hear_of_a_failed_flush() -> None:
    for told in (False, True):
        story = Story()
        story.write()
        loss = story.record.not_flushed("v", told=told)
        story.flush()
        loss.until = story.record.stamp()
        assert len(story.problems) == told


def test_a_write_under_way_at_the_loss_may_be_gone_or_there() -> None:
    for there in (False, True):
        story = Story()
        old = story.write()
        running = story.begin()
        story.lose()
        story.end(running)
        story.read(running.tags[0] if there else old)
        assert story.problems == []


def test_the_first_flush_of_a_session_that_was_there_must_tell_of_the_loss() -> None:
    story = Story()
    story.write()
    story.lose()
    story.record.session("later", "v", 9)
    story.flush("done", "later")
    assert story.problems == []
    story.flush("done")
    assert len(story.problems) == 1
    story = Story()
    story.lose()
    story.flush("failed")
    story.flush("done")
    assert story.problems == []


def test_half_of_a_sector_is_garbled() -> None:
    data = bytearray(bytes_of((5, 6)))
    assert tags_in(bytes(data)) == (5, 6)
    data[100] ^= 1
    assert tags_in(bytes(data)) == (GARBLED, 6)
