"""Copies are compared beside writes, faults and resyncs without a difference that is none; and what was
spoilt behind everybody's back is found exactly, however copies are cut.
"""

import random

import pytest

from tests.property.test_owner_random import STEPS, Run
from tests.unit.protocol.owner_world import OSLO, PARIS, ROME, SIZE, VOLUME, A, B, C, World
from vimraft.protocol.comparing import Mending
from vimraft.protocol.maps import REGION_BYTES, Copy, Part, VolumeMap
from vimraft.protocol.verify import Tally, Verify

REGIONS = SIZE // REGION_BYTES
GRAIN = REGION_BYTES // 4
PACE = 0.15
"""How soon the next comparison begins: each reads all copies."""


class Compared(Run):
    """A comparison is under way most of the time."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.verify: Verify | None = None
        self.ended: list[Tally] = []

    def look(self) -> None:
        super().look()
        if self.verify is not None and (not self.verify.ended or self.random.random() > PACE):
            return
        if self.verify is not None:
            self.ended.append(self.verify.tally)
        self.verify = Verify(self.world.owner, Mending() if self.random.random() < 0.5 else None)
        self.world.run(self.verify.start(self.world.now))


@pytest.mark.parametrize("seed", range(5))
def test_what_clients_do_meanwhile_is_no_difference(seed: int) -> None:
    run = Compared(seed)
    for _ in range(STEPS):
        run.step()
    run.finish()
    while not run.verify.ended:
        run.world.wait(1)
    run.ended.append(run.verify.tally)
    for tally in run.ended:
        assert tally.differing == 0, tally.differences
        assert tally.compared + tally.skipped == tally.done == tally.regions == REGIONS
        assert max(tally.copies.values(), default=0) <= REGIONS
    assert run.ended[-1].clean, "all is well by then"


def cut(random_: random.Random, name: str) -> Copy:
    """In parts of some GRAINs at any of the stores."""
    parts: list[Part] = []
    at = 0
    while at < SIZE:
        end = min(SIZE, at + random_.randint(1, 16) * GRAIN)
        parts.append(Part(at, end, random_.choice((PARIS, ROME, OSLO))))
        at = end
    return Copy(name, "in_sync", tuple(parts))  # type: ignore[arg-type]


def spoil(world: World, copy: Copy, at: int) -> None:
    (part,) = copy.split(at, at + 1)
    world.stores[part.store].data[copy.name][at] ^= 0xFF


def whole(world: World, copy: Copy) -> bytes:
    return b"".join(world.stores[p.store].data[copy.name][p.first : p.end] for p in copy.parts)


@pytest.mark.parametrize("seed", range(6))
def test_exactly_what_was_spoilt_is_found_and_mended(seed: int) -> None:
    chance = random.Random(seed)
    copies = tuple(cut(chance, name) for name in ((A, B) if chance.random() < 0.5 else (A, B, C)))
    world = World(VolumeMap(VOLUME, 10, 5, PARIS, SIZE, copies))
    for store in world.stores.values():
        store.data = {copy.name: bytearray(SIZE) for copy in copies}
    for _ in range(chance.randint(0, 6)):
        spoil(world, chance.choice(copies), chance.randrange(SIZE))
    before = {copy.name: whole(world, copy) for copy in copies}
    wrong = {
        region
        for region in range(REGIONS)
        if len({data[region * REGION_BYTES : (region + 1) * REGION_BYTES] for data in before.values()}) > 1
    }
    source = chance.choice(copies)
    for mending in (None, Mending(source.name), None):
        verify = Verify(world.owner, mending)
        world.run(verify.start(world.now))
        world.wait(5)
        tally = verify.tally
        assert verify.phase == "over"
        assert tally.compared == REGIONS
        found = {
            n for d in tally.differences for n in range(d.first // REGION_BYTES, -(-d.end // REGION_BYTES))
        }
        assert found == wrong
        assert tally.differing == len(wrong)
        if mending is not None:
            assert tally.repaired == len(wrong)
            assert {whole(world, copy) for copy in copies} == {before[source.name]}
            wrong = set()
