"""Volumes of one copy whose owner is to change: served by the machines of volumes with copies meanwhile.

May live here: when that begins and ends. Only these machines let an owner go in good order (hold, drain,
give the right to serve up, seal the stores, wait for whoever may still serve by an older map); a volume of
one copy is served without them, since nobody but its owner ever serves it. So its row says `handing_over`
first, which is a new epoch; then it is handed over like any other; and when its owner serves, whoever that is
now, the owner's manager takes the mark away. A mark that a manager left when it died costs speed, nothing
else, and is taken away by whoever owns the volume.
"""

import asyncio
from collections.abc import Container, Mapping
from typing import Final

from vimraft.core.change import holders
from vimraft.core.commands import SetHandingOver
from vimraft.core.copies import in_sync
from vimraft.core.ids import ManagerName
from vimraft.core.tables import State, Volume
from vimraft.data.feed import CopiesStatus
from vimraft.site.context import SiteContext

PREPARE_S: Final = 8.0
"""How long a move waits until the machines serve the volume."""
LOOK_S: Final = 0.1


def can_own(state: State, volume: Volume, manager: ManagerName) -> bool:
    """A volume of one copy is handed to a manager that holds some of it."""
    return any(manager in holders(state, replica.segments) for replica in in_sync(volume))


def serves(status: CopiesStatus | None, epoch: int) -> bool:
    return status is not None and status.takeover == "over" and status.epoch >= epoch


async def wait_served(site: SiteContext, name: str, epoch: int) -> None:
    """Until the machines serve it in this epoch, or for a while: a move that comes too early says so."""
    for _ in range(int(PREPARE_S / LOOK_S)):
        if serves(site.copies.volumes.get(name), epoch):
            return
        await asyncio.sleep(LOOK_S)


def ended(
    state: State, me: ManagerName, said: Mapping[str, CopiesStatus], moving: Container[str]
) -> list[SetHandingOver]:
    """Marks that the owner `me` takes away now. `said`: by its export; `moving`: hand-overs under way."""
    return [
        SetHandingOver(volume.name, volume.epoch, volume.owner, False)
        for name, volume in sorted(state.volumes.items())
        if volume.owner == me
        and volume.handing_over
        and name not in moving
        and serves(said.get(name), volume.epoch)
    ]
