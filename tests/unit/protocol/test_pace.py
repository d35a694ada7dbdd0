"""Copying beside clients: how its rate follows their latency."""

from vimraft.protocol.pace import FULL_SAMPLES, MIN_SAMPLES, MS, Pace, PaceLimits

MIB = 1 << 20
LIMITS = PaceLimits()


class Volume:
    """A disk of which copying takes a share: requests take `usual_ns`, and `slowdown(rate)` times that."""

    def __init__(self, pace: Pace, usual_ns: int = 1 * MS) -> None:
        self.pace = pace
        self.now_ns = 1_000 * MS
        self.usual_ns = usual_ns
        self.copied = 0
        self._copied_at_ns = 0
        self._before = 0

    def requests(self, count: int, took_ns: int, length: int = 4096) -> None:
        for _ in range(count):
            self.now_ns += took_ns
            self.pace.client("write", length, took_ns, self.now_ns)

    def piece(self, *, busy: bool) -> int:
        """Copy one if it may begin; returns what it has to wait."""
        wait_ns = self.pace.wait_ns(self.now_ns, busy=busy)
        if not wait_ns:
            self.pace.begin(MIB, self.now_ns)
            self.copied += MIB
        return wait_ns

    def beside_clients(self, seconds: float, slowdown) -> float:  # type: ignore[no-untyped-def]
        """One client that sends requests one after the other; returns bytes copied a second."""
        began_ns, before = self.now_ns, self.copied
        running = 0
        while self.now_ns - began_ns < seconds * 1e9:
            running += not self.piece(busy=True)
            took_ns = int(self.usual_ns * (slowdown(self.pace.rate_bytes_per_s) if running else 1))
            self.now_ns += took_ns
            self.pace.client("write", 4096, took_ns, self.now_ns)
            while running:
                self.pace.end(self.now_ns)
                running -= 1
            self.now_ns += 1
        return (self.copied - before) / seconds


def test_without_clients_the_rate_is_the_highest() -> None:
    pace = Pace()
    volume = Volume(pace)
    began_ns = volume.now_ns
    while volume.now_ns - began_ns < 1_000 * MS:
        wait_ns = volume.piece(busy=False)
        if wait_ns:
            volume.now_ns += wait_ns
        else:
            pace.end(volume.now_ns)
    assert 1 <= volume.copied / LIMITS.highest_bytes_per_s < 1.05


def test_the_first_rate_holds_before_anything_is_known() -> None:
    pace = Pace()
    volume = Volume(pace)
    assert volume.piece(busy=True) == 0
    assert volume.piece(busy=True) == MIB * 1_000_000_000 // LIMITS.first_bytes_per_s - LIMITS.burst_ns


def test_the_rate_rises_to_the_highest_while_clients_do_not_notice() -> None:
    pace = Pace()
    volume = Volume(pace)
    volume.requests(2 * MIN_SAMPLES, volume.usual_ns)
    volume.beside_clients(20, lambda _rate: 1.1)
    assert pace.rate_bytes_per_s == LIMITS.highest_bytes_per_s


def test_the_rate_falls_to_the_lowest_when_clients_suffer_at_any_rate() -> None:
    pace = Pace()
    volume = Volume(pace)
    volume.requests(2 * MIN_SAMPLES, volume.usual_ns)
    rate = volume.beside_clients(10, lambda _rate: 10.0)
    assert pace.rate_bytes_per_s < 2 * LIMITS.lowest_bytes_per_s
    assert rate > LIMITS.lowest_bytes_per_s / 2, "it comes to an end all the same"


def test_the_rate_settles_where_clients_are_slowed_down_by_the_factor() -> None:
    knee = 200 * MIB
    pace = Pace()
    volume = Volume(pace)
    volume.requests(2 * MIN_SAMPLES, volume.usual_ns)
    volume.beside_clients(10, lambda rate: 1 + rate / knee)
    seen = []
    for _ in range(20):
        volume.beside_clients(0.5, lambda rate: 1 + rate / knee)
        seen.append(pace.rate_bytes_per_s)
    slow = LIMITS.factor_percent / 100 - 1
    assert min(seen) > knee * slow * 0.7
    assert max(seen) < knee * slow * 2


def test_what_one_piece_does_to_few_requests_does_not_stop_copying() -> None:
    pace = Pace()
    now_ns = 0
    pieces = 0
    for _ in range(30_000):  # 1 ms each; one piece in four makes a request take ten times as long
        now_ns += 1 * MS
        took_ns = 1 * MS
        if pace.wait_ns(now_ns, busy=True) == 0:
            pieces += 1
            pace.begin(MIB, now_ns)
            if pieces % 4 == 0:
                now_ns += 9 * MS
                took_ns = 10 * MS
            pace.end(now_ns)
        pace.client("write", 4096, took_ns, now_ns)
    assert 20 * MIB < pace.rate_bytes_per_s < 64 * MIB, "one in a hundred of a thousand a second"


def test_a_client_that_sends_larger_requests_is_not_taken_for_a_slow_one() -> None:
    pace = Pace()
    volume = Volume(pace)
    volume.requests(2 * MIN_SAMPLES, volume.usual_ns)
    volume.beside_clients(2, lambda _rate: 1.0)
    before = pace.rate_bytes_per_s
    pace.begin(MIB, volume.now_ns)
    volume.requests(MIN_SAMPLES, 30 * volume.usual_ns, length=MIB)
    pace.wait_ns(volume.now_ns, busy=True)
    assert pace.rate_bytes_per_s >= before


def test_copying_rests_to_learn_what_clients_that_come_later_need() -> None:
    pace = Pace()
    volume = Volume(pace)
    pace.begin(MIB, volume.now_ns)
    volume.requests(150, volume.usual_ns)
    wait_ns = pace.wait_ns(volume.now_ns, busy=True)
    assert 0 < wait_ns <= LIMITS.rest_ns
    pace.end(volume.now_ns)
    volume.now_ns += LIMITS.settle_ns + 1
    volume.requests(FULL_SAMPLES, volume.usual_ns)
    assert pace.wait_ns(volume.now_ns, busy=True) == 0, "enough is known before the rest is over"


def test_a_rest_ends_although_no_request_does() -> None:
    pace = Pace()
    volume = Volume(pace)
    pace.begin(MIB, volume.now_ns)
    volume.requests(150, volume.usual_ns)
    assert pace.wait_ns(volume.now_ns, busy=True) > 0
    volume.now_ns += LIMITS.rest_ns
    assert pace.wait_ns(volume.now_ns, busy=True) == 0


def test_a_request_that_does_not_end_slows_copying_down() -> None:
    pace = Pace()
    volume = Volume(pace)
    pace.rate_bytes_per_s = 10 * LIMITS.lowest_bytes_per_s
    volume.piece(busy=True)
    volume.now_ns += LIMITS.window_ns
    pace.wait_ns(volume.now_ns, busy=True)
    assert pace.rate_bytes_per_s < 10 * LIMITS.lowest_bytes_per_s


def test_after_a_pause_of_the_clients_their_rate_is_remembered() -> None:
    pace = Pace()
    volume = Volume(pace)
    volume.requests(2 * MIN_SAMPLES, volume.usual_ns)
    volume.beside_clients(10, lambda _rate: 10.0)
    volume.now_ns += LIMITS.idle_ns
    assert volume.piece(busy=False) == 0
    assert volume.piece(busy=False) == 0
    assert volume.piece(busy=True) <= MIB * 1_000_000_000 // LIMITS.lowest_bytes_per_s
    assert pace.rate_bytes_per_s < 2 * LIMITS.lowest_bytes_per_s
