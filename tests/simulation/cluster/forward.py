"""Sending requests on to the owner's export, and taking those of others.

May live here: connections between exports. Each is a *generation* of the sender's life; a request whose
answer did not come is sent again on the next one, and the receiver begins with a generation only when nothing
of the one before runs any more, and takes nothing more of that (INV-5).

`resend` False: a write that was sent and not answered is not sent again; nobody knows what becomes of it. Two
clients that write to the same sector can tell the difference.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.cluster.wire import Connection
from vimraft.core.ids import ManagerName, VolumeName
from vimraft.protocol.losses import NO_LOSS, LossMark
from vimraft.protocol.owner_effects import ReplyHow, RequestKind

if TYPE_CHECKING:
    from tests.simulation.cluster.export import Export

AGAIN_S = 0.1


class Task:
    """A client's request, wherever it is. `how`: as `ReplyHow`, or `gone`: nobody knows."""

    __slots__ = (
        "data",
        "end",
        "first",
        "forwarded",
        "fua",
        "kind",
        "sent",
        "session",
        "since",
        "told",
        "volume",
    )

    def __init__(
        self,
        volume: VolumeName,
        session: str,
        kind: RequestKind,
        first: int,
        end: int,
        data: bytes,
        fua: bool,
        since: LossMark,
        told: Callable[[Any, bytes, LossMark], None],
        *,
        forwarded: bool = False,
    ) -> None:
        self.volume = volume
        self.session = session
        self.kind: RequestKind = kind
        self.first = first
        self.end = end
        self.data = data
        self.fua = fua
        self.since = since
        self.told = told
        self.forwarded = forwarded
        self.sent = False

    @property
    def words(self) -> tuple[Any, ...]:
        return (
            self.volume, self.session, self.kind, self.first, self.end, self.data, self.fua, self.since
        )  # fmt: skip


class _Link:
    """To the export of one manager. `connection` None: it is being made."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.tasks: dict[int, Task] = {}


class _Generation:
    """Of another export, here."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: list[tuple[int, tuple[Any, ...]]] = []
        self.over = False
        self.number = (0, 0)
        """Life of the sender, and of its connections which."""


class Forwards:
    def __init__(self, export: "Export") -> None:
        self._export = export
        self._links: dict[ManagerName, _Link] = {}
        self._numbers = self._hellos = 0
        self._generations: dict[Connection, _Generation] = {}
        self._newest: dict[str, Connection] = {}
        self._before: dict[str, list[_Generation]] = {}

    # --- sending --------------------------------------------------------------------------------------

    def send(self, task: Task) -> None:
        export = self._export
        row = None if export.state is None else export.state.volumes.get(task.volume)
        if row is None or row.owner == export.me:
            export.after(AGAIN_S, export.submit, task)
            return
        link = self._links.get(row.owner)
        if link is None:
            link = self._links[row.owner] = _Link()
            export.host.wire.connect(export, export.host.others[row.owner].export)
        self._numbers += 1
        link.tasks[self._numbers] = task
        if link.connection is not None:
            self._put(link, self._numbers, task)

    def _put(self, link: _Link, number: int, task: Task) -> None:
        assert link.connection is not None, "there is one"
        task.sent = True
        link.connection.send(self._export, ("ask", number, task.words))

    def connected(self, connection: Connection) -> None:
        link = self._links[ManagerName(connection.ends[1].site)]
        link.connection = connection
        self._hellos += 1
        connection.send(self._export, ("hello", (self._export.life, self._hellos)))
        for number, task in list(link.tasks.items()):
            self._put(link, number, task)

    def refused(self, owner: ManagerName) -> None:
        self._again(owner)

    def _again(self, owner: ManagerName) -> None:
        """What is not answered goes on, to whoever owns its volume then; or is given up."""
        link = self._links.pop(owner, None)
        if link is None:
            return
        export = self._export
        for task in link.tasks.values():
            self.again(task) if task.sent else export.after(AGAIN_S, export.submit, task)

    def again(self, task: Task) -> None:
        """Somebody may have begun with it."""
        export = self._export
        if task.kind in ("write", "zero", "trim") and not export.host.resend:
            task.told("gone", b"", NO_LOSS)
        else:
            export.after(AGAIN_S, export.submit, task)

    def maps_changed(self) -> None:
        """A request goes on to the present owner, also when the former one does not answer."""
        export = self._export
        for owner, link in list(self._links.items()):
            for number, task in list(link.tasks.items()):
                row = None if export.state is None else export.state.volumes.get(task.volume)
                if row is not None and row.owner != owner:
                    del link.tasks[number]
                    self.again(task) if task.sent else export.submit(task)

    def ended(self) -> None:
        self._links.clear()

    # --- both -----------------------------------------------------------------------------------------

    def lost(self, connection: Connection) -> None:
        if connection in self._generations:
            self._generations[connection].over = True
            return
        owner = ManagerName(connection.ends[1].site)
        link = self._links.get(owner)
        if link is not None and link.connection is connection:
            self._again(owner)

    def received(self, connection: Connection, payload: Any) -> None:
        if connection in self._generations:
            self._asked(connection, payload)
            return
        link = self._links.get(ManagerName(connection.ends[1].site))
        if link is None or link.connection is not connection:
            return
        _, number, how, data, mark = payload
        task = link.tasks.pop(number, None)
        if task is None:
            return
        if how in ("done", "failed"):
            task.told(how, data, mark)
        else:
            self.again(task)

    # --- taking ---------------------------------------------------------------------------------------

    def accepted(self, connection: Connection) -> None:
        self._generations[connection] = _Generation()

    def _asked(self, connection: Connection, payload: Any) -> None:
        generation = self._generations[connection]
        site = connection.ends[0].site
        if payload[0] == "hello":
            generation.number = payload[1]
            before = self._newest.get(site)
            if before is not None and self._generations[before].number > generation.number:
                generation.over = True  # a late one
                return
            if before is not None:
                old = self._generations[before]
                old.over = True
                old.waiting.clear()
                self._before.setdefault(site, []).append(old)
            self._newest[site] = connection
            return
        if generation.over or self._newest.get(site) is not connection:
            return
        generation.waiting.append((payload[1], payload[2]))
        self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        site = connection.ends[0].site
        older = [one for one in self._before.get(site, []) if one.running]
        self._before[site] = older
        generation = self._generations[connection]
        if older or generation.over:
            return
        waiting, generation.waiting = generation.waiting, []
        for number, words in waiting:
            self._execute(connection, generation, number, words)

    def _execute(
        self, connection: Connection, generation: _Generation, number: int, words: tuple[Any, ...]
    ) -> None:
        generation.running += 1

        def told(how: ReplyHow, data: bytes, mark: LossMark) -> None:
            generation.running -= 1
            connection.send(self._export, ("answer", number, how, data, mark))
            newest = self._newest.get(connection.ends[0].site)
            if newest is not None and not generation.running:
                self._go_on(newest)

        self._export.submit(Task(*words, told, forwarded=True))
