"""While segments move, a copy's name stands for other segments after the change of the map than before."""

import msgspec

from tests.unit.protocol.owner_world import PARIS, ROME, A, B, World, copy, two
from vimraft.core.ids import LocalName
from vimraft.protocol.asks import Answer
from vimraft.protocol.maps import VolumeMap, moving_name


def moving() -> VolumeMap:
    """B at rome moves within rome."""
    plus = copy(moving_name(B), ROME, state="syncing", moves=B)
    return msgspec.structs.replace(two(), copies=(*two().copies, plus))


def moved(before: VolumeMap) -> VolumeMap:
    copies = tuple(one for one in before.copies if one.moves is None)
    return msgspec.structs.replace(before, index=before.index + 10, epoch=before.epoch + 1, copies=copies)


def test_what_only_the_old_segments_have_is_not_acknowledged() -> None:
    world = World(moving())
    plus = moving_name(B)
    world.stores[ROME].how = lambda request: "silent" if request.copy == plus else "done"
    world.stores[PARIS].how = lambda request: "silent"
    write = world.write(7)
    late = world.stores[ROME].seen[-1]
    here = world.stores[PARIS].seen[-1]
    assert late.copy == LocalName("B+")
    world.apply(moved(moving()))
    world.run(world.owner.answer(PARIS, Answer(here.number, "done", "b1"), world.now))
    assert world.how(write) is None, "the new segments may not have it"
    for store in (PARIS, ROME):
        world.stores[store].how = lambda request: "done"
    world.run(world.owner.answer(ROME, Answer(late.number, "older", "b1"), world.now))
    assert world.how(write) == "done"
    assert world.stores[ROME].seen[-1].copy == B
    assert world.stores[ROME].seen[-1].epoch == moving().epoch + 1, "it was sent to the new segments, too"


def test_while_it_is_undecided_only_the_old_segments_count() -> None:
    world = World(moving())
    plus = moving_name(B)
    world.stores[ROME].how = lambda request: "silent" if request.copy == plus else "done"
    assert world.how(world.write(7)) == "done"
    assert world.owner.desk.map.copy(A) is not None
