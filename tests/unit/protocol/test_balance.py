"""Which copy a read goes to."""

from typing import Any

from tests.unit.protocol.owner_world import PARIS, ROME, A, B, copy
from vimraft.protocol.balance import (
    HALF_LIFE_NS,
    MAX_HALVINGS,
    MS,
    PRESSED_NS,
    TOLD_NS,
    Balance,
    Preference,
    Told,
)

COPIES = (copy(A, PARIS), copy(B, ROME))


class Reads:
    """By an owner in `me`; A lies in Paris, B in Rome."""

    def __init__(self, me: Any = PARIS, **preference: Any) -> None:
        self.balance = Balance(me, Preference(**preference))
        self.now_ns = 1_000_000 * MS
        self.stores = {A: PARIS, B: ROME}

    def choose(self) -> str:
        return self.balance.choose(COPIES, self.now_ns).name

    def begin(self) -> str:
        chosen = self.balance.choose(COPIES, self.now_ns).name
        self.balance.began(chosen, self.stores[chosen])
        return chosen

    def end(self, name: Any, took_ns: int, how: str = "done") -> None:
        self.now_ns += took_ns
        self.balance.ended(name, how, took_ns, self.now_ns)

    def one(self, took_ns: int, how: str = "done") -> str:
        name = self.begin()
        self.end(name, took_ns, how)
        return name

    def counters(self, name: str) -> Any:
        return next(one for one in self.balance.counters if one.copy == name)


def test_reads_begin_at_the_own_copy_and_stay_there_while_it_is_not_loaded() -> None:
    for me, own in ((PARIS, A), (ROME, B)):
        reads = Reads(me)
        assert {reads.one(MS // 10) for _ in range(50)} == {own}
        assert reads.balance.switches == 0


def test_below_the_threshold_nobody_switches() -> None:
    reads = Reads(threshold=4)
    assert [reads.begin() for _ in range(4)] == [A, A, A, A]


def test_above_the_threshold_reads_go_to_the_copy_that_is_less_loaded() -> None:
    reads = Reads(threshold=4)
    names = [reads.begin() for _ in range(12)]
    assert names[:5] == [A] * 5
    assert B in names
    assert reads.balance.switches >= 1


def test_a_little_less_load_is_no_reason_to_switch() -> None:
    reads = Reads(threshold=1, hysteresis_percent=100)
    for _ in range(40):
        reads.one(MS // 2)
    assert reads.begin() == A
    assert reads.begin() == A, "twice the load of B, which is not more than the hysteresis asks for"


def test_the_threshold_and_the_hysteresis_are_what_is_set() -> None:
    def first_switch(**preference: Any) -> int:
        reads = Reads(**preference)
        return [reads.begin() for _ in range(100)].index(B)

    assert first_switch(threshold=4) < first_switch(threshold=20)
    assert first_switch(hysteresis_percent=0) < first_switch(hysteresis_percent=300)


def test_load_that_others_put_on_the_real_volumes_counts() -> None:
    reads = Reads()
    reads.one(MS // 10)
    reads.balance.tell({A: Told(16, 2 * MS), B: Told(0, MS // 10)}, reads.now_ns)
    assert reads.choose() == B
    silent = Reads()
    silent.one(MS // 10)
    silent.balance.tell({A: Told(16, 2 * MS)}, silent.now_ns)
    silent.now_ns += TOLD_NS
    assert silent.choose() == A, "a manager that says nothing any more is not believed"


def test_a_disk_that_became_slow_is_left_by_a_single_client_too() -> None:
    reads = Reads()
    reads.one(MS // 10)
    while reads.one(50 * MS) == A:
        assert reads.counters(A).reads < 20
    assert reads.choose() == B


def test_a_copy_that_was_slow_is_tried_again_after_a_while() -> None:
    reads = Reads()
    for _ in range(30):
        reads.end(reads.begin(), 50 * MS if reads.balance._present == A else MS)
    assert reads.choose() == B
    reads.now_ns += MAX_HALVINGS * HALF_LIFE_NS
    assert reads.choose() == A


def test_a_store_that_says_busy_is_left_for_a_while() -> None:
    reads = Reads()
    for _ in range(20):
        reads.one(MS)
    reads.end(reads.begin(), MS, "busy")
    assert reads.choose() == B
    assert reads.counters(A).busy == 1
    calm = Reads()
    for _ in range(20):
        calm.one(MS)
    calm.end(calm.begin(), MS, "busy")
    calm.now_ns += PRESSED_NS
    assert calm.choose() == A


def test_a_store_that_does_not_answer_is_left() -> None:
    reads = Reads()
    reads.one(MS // 10)
    assert reads.one(10_000 * MS, "lost") == A
    assert reads.choose() == B
    assert reads.counters(A).failed == 1


def test_the_policies_local_and_primary() -> None:
    for me, own in ((PARIS, A), (ROME, B)):
        reads = Reads(me, policy="local", threshold=1)
        assert {reads.begin() for _ in range(20)} == {own}
    reads = Reads(ROME, policy="primary", threshold=1)
    assert {reads.begin() for _ in range(20)} == {A}


def test_reads_are_counted_by_where_they_went() -> None:
    reads = Reads(ROME, policy="primary")
    reads.one(MS)
    reads.balance.began(A, PARIS, copying=True)
    reads.balance.ended(A, "done", 900 * MS, reads.now_ns, copying=True)
    counters = reads.counters(A)
    assert (counters.local, counters.remote, counters.copying, counters.reads) == (0, 1, 1, 1)
    assert counters.in_flight == 0
    assert counters.latency_ns < 10 * MS, "copying says nothing about the requests of clients"
