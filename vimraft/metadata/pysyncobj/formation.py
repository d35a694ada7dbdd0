"""The first election of a cluster: nobody decides anything before all of its first members have met.

May live here: who still has to be met. Until the log names the members with their node ids, a node knows
them by address only, and takes whoever speaks there first for the one that is meant. If a majority could
form the cluster without the others, a disk wiped later could form it once more, empty, with a member that
had been away: neither would know better.

Keeps: a node whose members are only its directory's first list neither stands nor votes before it has *met*
each of them. Met: a link was up, so that either end has the other's id on its disk. Whoever takes part in the
first election is thus known by id to all the others, and once its disk is wiped, none of them lets it in.
The first leader names all members, with their ids, in the first entries of the log.
"""

from collections.abc import Callable, Iterable

import structlog

log = structlog.get_logger(__name__)


class Formation:
    def __init__(
        self,
        own_address: str,
        first_members: Iterable[str],
        met: Iterable[str],
        over: Callable[[], bool],
        save: Callable[[], None],
        configured: Iterable[str] = (),
    ) -> None:
        """`over`: the log names the members. `save` makes `met` durable; raises OSError. `configured`: as the
        configuration says today, if it does; the directory keeps what it said at the first start."""
        today = frozenset(configured)
        self._changed = sorted((today ^ frozenset(first_members)) - {own_address}) if today else []
        self._others = frozenset(first_members) - {own_address}
        self._met = frozenset(met) & self._others
        self._saved = self._met
        self._over = over
        self._save = save

    @property
    def met(self) -> frozenset[str]:
        """What is to be saved."""
        return self._met

    def meet(self, address: str) -> None:
        """A link with the member at `address` is up."""
        if address in self._others - self._met:
            self._met |= {address}
            self.settle()

    def settle(self) -> None:
        """Save what could not be saved when it happened."""
        if self._saved == self._met:
            return
        try:
            self._save()
        except OSError as error:
            log.error("raft.members_not_written", problem=str(error))
            return
        self._saved = self._met

    def waits_for(self) -> list[str]:
        """First members that are yet to be met."""
        return [] if self._over() else sorted(self._others - self._saved)

    @property
    def problem(self) -> str:
        missing = self.waits_for()
        if not missing:
            return ""
        changed = (
            f"; raft.members of the configuration differ by {', '.join(self._changed)}, but are read at "
            "the very first start only"
            if self._changed
            else ""
        )
        return (
            f"forming: waits for the first contact with {', '.join(missing)}; if one of them will never "
            "come, stop all first managers, move raft/ out of their data directories and start them with "
            f"other raft.members{changed}"
        )
