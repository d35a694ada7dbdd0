"""An owner that was one before, in the same life of its export, is not taken for a late message of that."""

import msgspec

from tests.unit.protocol.owner_world import ROME, World, two


def test_sessions_of_a_later_owner_are_newer() -> None:
    world = World(two())
    world.run(world.owner.store_lost(ROME, world.now))
    world.write(1)
    before = world.stores[ROME].seen[-1].session
    again = World(msgspec.structs.replace(two(), epoch=two().epoch + 2))
    again.write(1)
    assert again.stores[ROME].seen[-1].session > before
