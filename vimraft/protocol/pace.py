"""How fast copies are brought back into step, by what that does to the latency of clients.

May live here: one controller for all copying of one volume, and its bounds. Sans-IO: it is told of requests
of clients that ended and of pieces that were copied, and says how long the next piece has to wait. Nothing
here decides about safety. Keeps:

- Idle (no client waits, none did lately): the highest rate. What clients made it wait for is over then.
- Else the rate goes up while hardly any request is *slow*, and down by a quarter when more than one in a
  hundred is; never below the lowest rate, so that a resync always comes to an end. Slow: it takes `factor`
  times as long as 99 of 100 do without copying. All requests count, also those between two pieces: what one
  piece does to a request is the same at any rate, what changes is how many meet one.
- "Without copying" is measured, not assumed: by requests that no copying overlapped, for each kind and size
  by itself (a client that begins to send larger requests is not slowed down by us). When nothing, or nothing
  recent, is known of what clients do now, copying rests for a moment.
"""

from msgspec import Struct

from vimraft.protocol.asks import WriteKind
from vimraft.protocol.owner_effects import RequestKind

MS = 1_000_000
_S = 1_000_000_000
MIN_SAMPLES = 4
"""Fewer requests say nothing about latency."""
FULL_SAMPLES = 100
"""So many say enough for now: a window of the rate, or what the slowest one in a hundred takes."""
STEP = 10
"""A request that is slower than the estimate of those raises it by one part in so many."""
MAX_CLASSES = 128
"""Kinds and sizes (powers of two) of requests; there are fewer."""


class PaceLimits(Struct, frozen=True, gc=False):
    lowest_bytes_per_s: int = 16 << 20
    highest_bytes_per_s: int = 1 << 30
    first_bytes_per_s: int = 16 << 20
    """Beside clients, before anything is known."""
    factor_percent: int = 125
    """Longer than so much of what 99 of 100 take without copying is slow."""
    down_percent: int = 75
    """What is left of the rate after a window that was too slow."""
    window_ns: int = 100 * MS
    """The rate changes no more often."""
    few_ns: int = 2 * _S
    """A window is longer when there are few requests, but not longer than this."""
    idle_ns: int = 500 * MS
    """After the last request of a client."""
    rest_ns: int = 200 * MS
    """How long copying rests at most, to learn what requests take without it."""
    settle_ns: int = 20 * MS
    """Requests that began so shortly after a piece may still have met what it left behind."""
    relearn_ns: int = 20 * _S
    """What was learnt is believed for so long."""
    burst_ns: int = 10 * MS
    """So much may begin ahead of its time: at high rates it would wait for timers all the time."""


class _Usual:
    """What one in a hundred requests of one kind and size takes longer than, without copying."""

    __slots__ = ("learnt_ns", "p99_ns", "samples")

    def __init__(self) -> None:
        self.p99_ns = self.samples = self.learnt_ns = 0

    def learn(self, took_ns: int, now_ns: int) -> None:
        self.samples += 1
        self.learnt_ns = now_ns
        step_ns = self.p99_ns // STEP
        if self.samples <= FULL_SAMPLES:
            self.p99_ns = max(self.p99_ns, took_ns)
        elif took_ns > self.p99_ns:
            self.p99_ns += step_ns * 99 // 100
        else:
            self.p99_ns -= step_ns // 100


class Pace:
    """`wait_ns` before each piece; `begin` and `end` around it; `client` for each request that ended."""

    def __init__(self, limits: PaceLimits = PaceLimits()) -> None:  # noqa: B008  (frozen)
        self._limits = limits
        self.rate_bytes_per_s = limits.first_bytes_per_s
        """Beside clients; when they are idle it is the highest one."""
        self._next_ns = 0
        self._beside = False
        """Clients were there when it was asked last."""
        self._copying = 0
        self._copying_ended_ns = -1
        self._client_ns = -limits.idle_ns
        """When a client was last heard of."""
        self._usual: dict[tuple[RequestKind | WriteKind, int], _Usual] = {}
        self._window_ns = 0
        """Beginning of the window."""
        self._samples = 0
        self._slow = 0
        """Of those."""
        self._unknown = 0
        """Requests of this window about which nothing (recent) is known to compare them with."""
        self._rest_until_ns = 0
        self._rested_ns = -limits.relearn_ns

    # --- what happened --------------------------------------------------------------------------------

    def client(self, kind: RequestKind, length_bytes: int, took_ns: int, now_ns: int) -> None:
        """A request of a client ended well. Flushes are not compared: they take what was written before."""
        self._client_ns = now_ns
        if kind == "flush":
            return
        key = (kind, length_bytes.bit_length())
        usual = self._usual.get(key)
        if usual is None:
            if len(self._usual) >= MAX_CLASSES:
                return
            usual = self._usual[key] = _Usual()
        if not self._copying and now_ns - took_ns > self._copying_ended_ns + self._limits.settle_ns:
            usual.learn(took_ns, now_ns)
        if usual.samples < MIN_SAMPLES or now_ns - usual.learnt_ns > self._limits.relearn_ns:
            self._unknown += 1
            return
        self._samples += 1
        self._slow += took_ns * 100 > usual.p99_ns * self._limits.factor_percent

    def begin(self, length_bytes: int, now_ns: int) -> None:
        """A piece of so many bytes is being copied from now on."""
        rate = self._rate(now_ns)
        self._copying += 1
        self._next_ns = max(now_ns, self._next_ns) + length_bytes * _S // rate

    def end(self, now_ns: int) -> None:
        """One of them has ended, whatever came of it."""
        assert self._copying, "no piece is being copied"
        self._copying -= 1
        self._copying_ended_ns = now_ns

    # --- what may be done -----------------------------------------------------------------------------

    def wait_ns(self, now_ns: int, *, busy: bool) -> int:
        """0: one more piece may begin. Else ask again in so many ns. `busy`: clients wait for something."""
        if busy:
            self._client_ns = now_ns
        if self.idle(now_ns):
            if self._beside:
                self._beside, self._next_ns = False, now_ns
            self._new_window(now_ns)
            return self._early_ns(now_ns)
        self._beside = True
        self._adapt(now_ns, busy=busy)
        return max(self._early_ns(now_ns), self._rest_ns(now_ns))

    def _early_ns(self, now_ns: int) -> int:
        return max(0, self._next_ns - self._limits.burst_ns - now_ns)

    def idle(self, now_ns: int) -> bool:
        return now_ns - self._client_ns >= self._limits.idle_ns

    def _rate(self, now_ns: int) -> int:
        return self._limits.highest_bytes_per_s if self.idle(now_ns) else self.rate_bytes_per_s

    def _rest_ns(self, now_ns: int) -> int:
        """What is left of a rest: it ends early when enough is known of what clients do."""
        left_ns = self._rest_until_ns - now_ns
        if left_ns <= 0 or self._copying:
            return max(0, left_ns)
        began_ns = self._rest_until_ns - self._limits.rest_ns
        learnt = [u for u in self._usual.values() if u.learnt_ns > began_ns and u.samples >= FULL_SAMPLES]
        if learnt:
            self._rest_until_ns = now_ns
            return 0
        return min(left_ns, self._limits.rest_ns // 8)

    # --- the rate -------------------------------------------------------------------------------------

    def _adapt(self, now_ns: int, *, busy: bool) -> None:
        """At the end of a window."""
        limits = self._limits
        passed_ns = now_ns - self._window_ns
        if passed_ns < limits.window_ns or now_ns < self._rest_until_ns:
            return
        if self._unknown > self._samples:
            self._rest(now_ns)
        elif self._slow * FULL_SAMPLES > max(self._samples, FULL_SAMPLES):
            self._slower()
        elif not (self._samples or self._unknown) and busy and self._copying:
            self._slower()  # somebody has waited for a whole window, and nothing has ended
        elif self._samples < FULL_SAMPLES and passed_ns < limits.few_ns:
            return  # more requests may come
        elif self._samples >= MIN_SAMPLES:
            self._slower() if self._slow * FULL_SAMPLES > self._samples else self._faster()
        self._new_window(now_ns)

    def _rest(self, now_ns: int) -> None:
        """Not again and again: some requests (of ever other sizes) can never be compared."""
        if now_ns - self._rested_ns >= self._limits.relearn_ns:
            self._rested_ns = now_ns
            self._rest_until_ns = now_ns + self._limits.rest_ns

    def _slower(self) -> None:
        rate = self.rate_bytes_per_s * self._limits.down_percent // 100
        self.rate_bytes_per_s = max(self._limits.lowest_bytes_per_s, rate)

    def _faster(self) -> None:
        rate = self.rate_bytes_per_s + max(self._limits.lowest_bytes_per_s // 2, self.rate_bytes_per_s // 16)
        self.rate_bytes_per_s = min(self._limits.highest_bytes_per_s, rate)

    def _new_window(self, now_ns: int) -> None:
        self._window_ns = now_ns
        self._samples = self._slow = self._unknown = 0
