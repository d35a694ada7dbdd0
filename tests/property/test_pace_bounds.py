"""Whatever clients do, copying goes on, and keeps within its bounds."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vimraft.protocol.pace import MS, Pace, PaceLimits

MIB = 1 << 20
_S = 1_000_000_000
LIMITS = PaceLimits()

requests = st.tuples(
    st.just("client"),
    st.sampled_from(["read", "write", "zero", "trim", "flush"]),
    st.integers(0, 32 << 20),
    st.integers(0, 20 * _S),
)
events = st.one_of(requests, st.tuples(st.just("pass"), st.integers(0, _S)), st.tuples(st.just("end")))


def test_limits_are_in_order() -> None:
    assert 0 < LIMITS.lowest_bytes_per_s <= LIMITS.first_bytes_per_s <= LIMITS.highest_bytes_per_s


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=60), st.booleans())
def test_the_rate_has_bounds_and_every_wait_ends(history: list[tuple[Any, ...]], busy: bool) -> None:
    pace, now_ns, running = Pace(), 100 * _S, 0
    for event in history:
        match event:
            case ("client", kind, length, took_ns):
                now_ns += took_ns
                pace.client(kind, length, took_ns, now_ns)
            case ("pass", passed_ns):
                now_ns += passed_ns
            case ("end",) if running:
                running -= 1
                pace.end(now_ns)
        wait_ns = pace.wait_ns(now_ns, busy=busy)
        assert wait_ns <= max(MIB * _S // LIMITS.lowest_bytes_per_s, LIMITS.rest_ns)
        if not wait_ns:
            pace.begin(MIB, now_ns)
            running += 1
        assert LIMITS.lowest_bytes_per_s <= pace.rate_bytes_per_s <= LIMITS.highest_bytes_per_s
    began_ns = now_ns
    while (wait_ns := pace.wait_ns(now_ns, busy=busy)) > 0:
        now_ns += wait_ns
        assert now_ns - began_ns < 2 * LIMITS.rest_ns + MIB * _S // LIMITS.lowest_bytes_per_s


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1_000), st.integers(0, 500))
def test_beside_clients_no_more_is_copied_than_the_rate_says(took_us: int, slower_percent: int) -> None:
    pace, now_ns, copied = Pace(), 100 * _S, 0
    for step in range(2_000):
        took_ns = took_us * 1_000 * (100 + (slower_percent if step % 2 else 0)) // 100
        now_ns += took_ns
        pace.client("write", 4096, took_ns, now_ns)
        if not pace.wait_ns(now_ns, busy=True):
            pace.begin(MIB, now_ns)
            pace.end(now_ns + MS)
            copied += MIB
    passed_s = (now_ns - 100 * _S) / _S
    assert copied <= passed_s * LIMITS.highest_bytes_per_s + 2 * MIB
