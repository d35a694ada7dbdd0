"""The leases that owners in this process serve by, as the feed brings them.

May live here: turning `LeaseUntil` and `Leases` into the machines of `vimraft.protocol.lease`. Keeps INV-2:
this manager's deadline is the manager's own word; everybody else's lease counts from when this process heard
of it, which is later than when the tables here had it, and so ends later.
"""

from collections.abc import Iterable

from vimraft.core.commands import LeaseStamp
from vimraft.core.ids import ManagerName
from vimraft.data import feed
from vimraft.protocol.desk import Leases
from vimraft.protocol.lease import OthersLease, OwnLease

MS = 1_000_000
MAX_MANAGERS = 1_024
"""Managers whose stamps are remembered. One that is no member any more stays: its lease has to run out."""


class LeaseBook:
    """One for a process. `installed`: the index that each manager says it has installed."""

    def __init__(self) -> None:
        self.others = OthersLease(0)
        self.installed: dict[ManagerName, int] = {}
        self.until_ns = 0
        self._own: dict[str, OwnLease] = {}

    def open(self, incarnation: str) -> Leases:
        """For one life of an owner: stores know it by `incarnation`."""
        own = self._own[incarnation] = OwnLease(incarnation, 0)
        own.deadline_ns = self.until_ns
        return Leases(own, self.others)

    def close(self, leases: Leases) -> None:
        self._own.pop(leases.own.incarnation, None)

    def own_until(self, boottime_ns: int) -> None:
        self.until_ns = boottime_ns
        for own in tuple(self._own.values()):
            own.deadline_ns = boottime_ns
            own.alone = False

    def lose_manager(self) -> None:
        for own in tuple(self._own.values()):
            own.alone = True

    def table(self, leases: feed.Leases, now_ns: int) -> None:
        self.others.lasts(leases.lease_ms * MS)
        for row in leases.rows:
            manager = ManagerName(row.manager)
            if manager not in self.installed and len(self.installed) >= MAX_MANAGERS:
                self._forget(other for other in self.installed if other not in _names(leases))
            stamp = LeaseStamp(row.incarnation, row.counter) if row.incarnation else None
            self.others.applied(manager, stamp, now_ns)
            self.installed[manager] = row.installed_index

    def _forget(self, managers: Iterable[ManagerName]) -> None:
        for manager in tuple(managers):
            del self.installed[manager]
            self.others.forget(manager)


def _names(leases: feed.Leases) -> set[str]:
    return {row.manager for row in leases.rows}
