"""The shell of one volume's owner: its machine under a lock, and what the machine wants done.

May live here: one life of an `Owner` (from the map that makes this manager the owner to the one that does
not), clients that wait for it, and the performing of effects. What runs beside client I/O (takeover, resync,
moves) is in `upkeep`. Keeps:

- Every event takes the time *after* it has the lock, so a process that stood still judges by the present.
- The thread of a request performs the effects of its own events: it sends to peers first, does the local part
  meanwhile, and takes the lock once for all answers. Everything else goes to the crews; nothing blocks under
  the lock.
- A connection that broke is told to the machine once for all that was under way in its session.
- A request that is not answered is never taken for done: what ends a life answers `moved`, and the request is
  made anew by the plan that follows.
"""

import itertools
import threading
from collections.abc import Callable

from vimraft.core.ids import ManagerName
from vimraft.data.copies.flights import DATA_KINDS, Flight, poll_flights
from vimraft.data.copies.links import Place
from vimraft.data.copies.shell import LocalStore, Shell
from vimraft.data.copies.workers import boottime_ns
from vimraft.data.errors import PeerLost
from vimraft.protocol.asks import SLOW, Answer
from vimraft.protocol.desk import Leases, Limits
from vimraft.protocol.lease import SoleHolderRight
from vimraft.protocol.losses import LossMark
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.messages import Session, StoreAnswer, for_owner
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import (
    ClientRequest,
    Effect,
    Installed,
    Persist,
    Propose,
    Reply,
    RequestKind,
    Send,
    Serving,
    SetTimer,
    StoreRequest,
)

MARK_RETRY_S = 1.0
"""Between two tries to keep a mark on a disk that refuses it."""
_MARGIN_S = 10.0
"""The machine ends every request itself; this much later its thread stops to wait for that."""
_LINK_MARGIN_S = 0.5
"""So much later than the machine takes a store for silent, connections to it are ended."""


class Client:
    """One connection of a client, through whatever site."""

    __slots__ = ("name", "since")

    def __init__(self, name: str, since: LossMark) -> None:
        """`since`: of the volume when it began; at least its epoch."""
        self.name = name
        self.since = since

    def told(self, mark: LossMark) -> None:
        """The client gets an error for it."""
        self.since = max(self.since, mark)


class _Waiter:
    __slots__ = ("lock", "reply")

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.lock: threading.Lock | None = None


class OwnerSide:
    def __init__(
        self,
        shell: Shell,
        first: VolumeMap,
        store: LocalStore,
        limits: Limits,
        installed: Callable[[Installed], None] = lambda _installed: None,
        serving: Callable[[], None] = lambda: None,
    ) -> None:
        self.volume = first.volume
        self.shell = shell
        self.leases: Leases = shell.leases.open(shell.next_incarnation())
        self.limits = limits
        self.lock = threading.Lock()
        right = SoleHolderRight(shell.marks.load(first.volume))
        self.owner = Owner(shell.me, first, self.leases, right=right, limits=limits)
        self.closed = False
        self._store = store
        self._installed = installed
        self._serving = serving
        self._me = shell.me
        self._timeout_s = limits.store_timeout_ns / 1e9 + _LINK_MARGIN_S
        self._give_up_s = limits.io_timeout_ns / 1e9 + _MARGIN_S
        self._waiters: dict[int, _Waiter] = {}
        self._ids = itertools.count(1)
        self._lost: dict[ManagerName, int] = {}
        """Session of each store that was told to be lost last."""
        self._sessions: dict[int, Session] = {}
        self._proposals: dict[int, int] = {}
        self._proposing = threading.Lock()

    # --- clients ------------------------------------------------------------------------------------------

    def request(
        self, kind: RequestKind, first: int, end: int, data: bytes, *, fua: bool, client: Client
    ) -> Reply:
        """Waits for the reply. `moved` also when this life has ended."""
        number = next(self._ids)
        request = ClientRequest(number, client.name, kind, first, end, data, fua, client.since)
        waiter = _Waiter()
        with self.lock:
            if self.closed:
                return Reply(number, "moved")
            self._waiters[number] = waiter
            effects = self.owner.request(request, boottime_ns())
        self._carry(effects, waiter)
        return waiter.reply or self._wait(number, waiter)

    def _carry(self, effects: list[Effect], waiter: _Waiter) -> None:
        """Until the reply is there, or nothing is left that this thread has begun itself."""
        flights: list[Flight] = []
        me = self._me
        while True:
            local: list[StoreRequest] = []
            for effect in effects:
                kind = type(effect)
                if kind is Reply:
                    self._reply(effect)  # type: ignore[arg-type]
                elif kind is not Send or waiter.reply is not None:
                    self._perform(effect)
                elif effect.store == me:  # type: ignore[union-attr]
                    if effect.request.kind == "checksum":  # type: ignore[union-attr]
                        self._perform(effect)  # it takes long, and is nobody's who waits here
                    else:
                        local.append(effect.request)  # type: ignore[union-attr]
                elif effect.request.kind in DATA_KINDS:  # type: ignore[union-attr]
                    flight = self._take_off(effect)  # type: ignore[arg-type]
                    if flight is not None:
                        flights.append(flight)
                else:
                    self._perform(effect)
            answers: list[tuple[ManagerName, Answer]] = []
            for request in local:
                self._ask_here(request, answers)
            if waiter.reply is not None or not (flights or answers):
                break
            lost = self._land(flights, answers, waiter) if flights else ()
            effects = self._answered(answers) if answers else []
            for flight in lost:
                effects += self._lost_there(flight.store, flight.request)
        # It is answered; what else its events have brought (a write that waited for its range) is not.
        if answers:
            self._event(lambda: self._answered(answers))
        for flight in flights:
            self.shell.crew(flight.store).submit(lambda flight=flight: self._finish(flight))  # type: ignore[misc]

    def _take_off(self, send: Send) -> Flight | None:
        """On a link that is there already; dialling is for the crew."""
        request, links = send.request, self.shell.links
        place = Place(send.store, request.volume, request.copy)
        link = links.idle(place, request.epoch, self._session(request))
        if link is not None:
            try:
                return links.begin(link, request, self._timeout_s)
            except PeerLost:
                self._event(lambda: self._lost_there(send.store, request))
                return None
        self._perform(send)
        return None

    def _land(
        self, flights: list[Flight], answers: list[tuple[ManagerName, Answer]], waiter: _Waiter
    ) -> list[Flight]:
        """Wait until one of them has an answer, and take all that have; but not for long while there are
        other answers to be told, or the reply has come elsewhere. Returns those that were lost."""
        links = self.shell.links
        lost: list[Flight] = []
        while True:
            wait = len(flights) == 1  # `answer` waits itself then
            poll_flights(flights)
            for flight in flights[:]:
                try:
                    answer = flight.answer(wait=wait)
                except PeerLost:
                    answer = None
                    links.drop(flight.link)
                    lost.append(flight)
                    flights.remove(flight)
                if answer is not None:
                    answers.append((flight.store, answer))
                    flights.remove(flight)
                    if answer.how == "busy" and flight.request.must:
                        answers.pop()
                        self._perform(Send(flight.store, flight.request))
                    links.give(flight.link)
            if answers or lost or not flights or waiter.reply is not None:
                return lost

    def _wait(self, number: int, waiter: _Waiter) -> Reply:
        lock = threading.Lock()
        lock.acquire()
        waiter.lock = lock  # before looking again: whoever replies looks for it after replying
        if waiter.reply is None:
            lock.acquire(timeout=self._give_up_s)
        self._waiters.pop(number, None)
        return waiter.reply or Reply(number, "failed")

    # --- events -------------------------------------------------------------------------------------------

    def event(self, call: Callable[[int], list[Effect]]) -> None:
        """From any thread: an event of the machine; the crews perform what comes of it."""
        with self.lock:
            if self.closed:
                return
            effects = call(boottime_ns())
        for effect in effects:
            self._perform(effect)

    def _event(self, call: Callable[[], list[Effect]]) -> None:
        for effect in call():
            self._perform(effect)

    def _answered(self, answers: list[tuple[ManagerName, Answer]]) -> list[Effect]:
        """One event, however many there are."""
        owner = self.owner
        with self.lock:
            if self.closed:
                return []
            owner.begin(boottime_ns())
            for store, answer in answers:
                owner.desk.answered(store, answer)
            return owner.end()

    def _lost_there(self, store: ManagerName, request: StoreRequest) -> list[Effect]:
        """Its connection ended, or it took too long."""
        if request.kind in SLOW:
            return self._answered([(store, Answer(request.number, "lost"))])
        return self._store_lost(store, request.session)

    def _store_lost(self, store: ManagerName, session: int) -> list[Effect]:
        with self.lock:
            if self.closed or session <= self._lost.get(store, 0):
                return []  # the machine has been told, and nothing of that session waits any more
            self._lost[store] = session
            return self.owner.store_lost(store, boottime_ns(), session)

    def close(self) -> None:
        """This life has ended: whoever waits is told `moved`."""
        with self.lock:
            self.closed = True
        for number in tuple(self._waiters):
            self._reply(Reply(number, "moved"))
        self.shell.leases.close(self.leases)
        with self._proposing:
            proposals, self._proposals = self._proposals, {}
        for number in proposals.values():
            self.shell.withdraw(number)

    # --- effects ------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        """Never waits."""
        kind = type(effect)
        if kind is Reply:
            self._reply(effect)  # type: ignore[arg-type]
        elif kind is Send:
            self._send(effect)  # type: ignore[arg-type]
        elif kind is SetTimer:
            self.shell.timers.at(effect.at_ns, self._timer)  # type: ignore[union-attr]
        elif kind is Propose:
            self._propose(effect)  # type: ignore[arg-type]
        elif kind is Persist:
            self.shell.durable.submit(lambda: self._persist(effect))  # type: ignore[arg-type]
        elif kind is Installed:
            self._installed(effect)  # type: ignore[arg-type]
        elif kind is Serving:
            self._serving()
            self.shell.log("copies.serving", volume=self.volume, epoch=effect.epoch)  # type: ignore[union-attr]

    def _reply(self, reply: Reply) -> None:
        waiter = self._waiters.pop(reply.id, None)
        if waiter is not None:
            self._tell(waiter, reply)

    @staticmethod
    def _tell(waiter: _Waiter, reply: Reply) -> None:
        waiter.reply = reply
        lock = waiter.lock
        if lock is not None and lock.locked():
            lock.release()

    def _timer(self) -> None:
        self.event(self.owner.timer)

    def _send(self, send: Send) -> None:
        if send.store == self._me:
            self.shell.local.submit(lambda: self._do_here(send.request))
        else:
            deadline_ns = boottime_ns() + self.limits.store_timeout_ns
            self.shell.crew(send.store).submit(lambda: self._do_there(send, deadline_ns))

    def _session(self, request: StoreRequest) -> Session:
        session = self._sessions.get(request.session)
        if session is None:
            session = Session(self._me, request.incarnation, request.session)
            if len(self._sessions) >= 64:
                self._sessions.clear()
            self._sessions[request.session] = session
        return session

    def _ask_here(self, request: StoreRequest, answers: list[tuple[ManagerName, Answer]]) -> None:
        """Answers that come before it returns are appended; later ones are events of their own."""
        thread = threading.get_ident()
        asking = True

        def done(answer: StoreAnswer) -> None:
            if asking and threading.get_ident() == thread:
                answers.append((self._me, for_owner(answer)))
            else:
                self._event(lambda: self._answered([(self._me, for_owner(answer))]))

        self._store.ask(self._session(request), request, done)
        asking = False

    def _do_here(self, request: StoreRequest) -> None:
        answers: list[tuple[ManagerName, Answer]] = []
        self._ask_here(request, answers)
        if answers:
            self._event(lambda: self._answered(answers))

    def _do_there(self, send: Send, deadline_ns: int) -> None:
        """In a thread of that store's crew. What has become too old while it waited is not sent any more:
        the machine has taken it for lost."""
        request = send.request
        left_s = (deadline_ns - boottime_ns()) / 1e9
        if left_s <= 0 or self.closed or request.session <= self._lost.get(send.store, 0):
            return
        try:
            timeout_s = left_s + _LINK_MARGIN_S
            answer = self.shell.links.ask(send.store, self._session(request), request, timeout_s)
        except PeerLost as lost:
            self._log_lost(send.store, lost)
            self._event(lambda: self._lost_there(send.store, request))
            return
        self._event(lambda: self._answered([(send.store, answer)]))

    def _finish(self, flight: Flight) -> None:
        try:
            answer = self.shell.links.finish(flight)
        except PeerLost as lost:
            self._log_lost(flight.store, lost)
            self._event(lambda: self._lost_there(flight.store, flight.request))
            return
        self._event(lambda: self._answered([(flight.store, answer)]))

    def _log_lost(self, store: ManagerName, lost: PeerLost) -> None:
        self.shell.log("copies.store_lost", volume=self.volume, store=store, cause=str(lost))

    def _propose(self, effect: Propose) -> None:
        token = effect.token

        def decided(decision: str) -> None:
            with self._proposing:
                self._proposals.pop(token, None)
            self.event(lambda now_ns: self.owner.outcome(token, decision, now_ns))  # type: ignore[arg-type]

        with self._proposing:
            if not self.closed:
                self._proposals[token] = self.shell.propose(effect.command, decided)

    def _persist(self, effect: Persist) -> None:
        try:
            self.shell.marks.keep(self.volume, effect.mark)
        except OSError as error:
            self.shell.log("copies.mark_not_kept", volume=self.volume, error=str(error))
            if not self.closed:
                again = lambda: self.shell.durable.submit(lambda: self._persist(effect))  # noqa: E731
                self.shell.timers.after(MARK_RETRY_S, again)
            return
        self.event(lambda now_ns: self.owner.persisted(effect.token, now_ns))
