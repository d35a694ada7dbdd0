"""Deleting for the time being: what goes to the trash, comes back, and is purged when."""

from pathlib import Path

import pytest

from tests.moves_case import WHO, Node, World
from vimraft.api.errors import ClientsAttached, LevelTooLow, Refused
from vimraft.api.schema_moves import ReadOnlyRequest, RestoreRequest
from vimraft.core.commands import SetSetting
from vimraft.core.reasons import Exists
from vimraft.site.trash import HOUR_MS, TrashKeeper

MIB = 1 << 20


@pytest.fixture
async def world(tmp_path: Path):
    made = await World(tmp_path).form()
    await made.build("v", 5, "tokyo", "osaka", copies=2)
    yield made
    await made.stop()


async def delete(node: Node, name: str = "v", *, purge: bool = False, force: bool = False) -> int:
    reply = await node.delete(name, purge=purge, force=force, who=WHO, request_id=None)
    return reply.trash_id


class Clock:
    """`wall` may leap, `monotonic` never does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.monotonic = 0

    def pass_(self, ms: int) -> None:
        self.monotonic += ms
        self.world.now_ms += ms


def keeper(node: Node, clock: Clock) -> TrashKeeper:
    return TrashKeeper(
        node.site, node.health, wall_ms=lambda: clock.world.now_ms, monotonic_ms=lambda: clock.monotonic
    )


async def trashed_now(world: World, node: Node) -> tuple[int, Clock]:
    """The log's own clock says when; the test's begins there."""
    trash_id = await delete(node)
    world.now_ms = world.state.trash[trash_id].trashed_ms
    for site in ("tokyo", "osaka", "nagoya"):
        node.hear(f"m-{site}")
    return trash_id, Clock(world)


async def test_a_deleted_volume_is_in_the_trash_holds_its_space_and_comes_back(world: World) -> None:
    node = world.node()
    before = world.state.volumes["v"]
    trash_id = await delete(node)
    assert "v" not in world.state.volumes
    assert not world.state.releases
    shown = await node.trash()
    (row,) = shown.volumes
    assert (row.id, row.name, row.copies, row.held_bytes) == (trash_id, "v", 2, 10 * MIB)
    assert shown.held_bytes == 10 * MIB
    assert row.purged_ms - row.trashed_ms == 72 * HOUR_MS
    reply = await node.restore(trash_id, RestoreRequest(), who=WHO, request_id=None)
    assert reply.volume.name == "v"
    assert world.state.volumes["v"].replicas == before.replicas


async def test_a_name_that_is_taken_again_needs_another_one_to_come_back(world: World) -> None:
    node = world.node()
    trash_id = await delete(node)
    await world.build("v", 1, "tokyo")
    with pytest.raises(Refused) as caught:
        await node.restore(trash_id, RestoreRequest(), who=WHO, request_id=None)
    assert caught.value.reason == Exists("virtual volume", "v")
    reply = await node.restore(trash_id, RestoreRequest(name="old"), who=WHO, request_id=None)
    assert reply.volume.name == "old"


async def test_what_is_purged_gives_its_space_back(world: World) -> None:
    node = world.node()
    trash_id = await delete(node)
    await node.purge(trash_id, who=WHO, request_id=None)
    assert not world.state.trash
    assert len(world.state.releases) == 1


@pytest.mark.parametrize("keep_h", [0, 72])
async def test_deleting_at_once_leaves_nothing_in_the_trash(world: World, keep_h: int) -> None:
    await world.do(SetSetting("trash_keep_h", keep_h))
    assert await delete(world.node(), purge=keep_h > 0) == 0
    assert not world.state.trash
    assert world.state.releases


async def test_below_level_3_a_volume_is_deleted_at_once_whoever_is_attached(tmp_path: Path) -> None:
    world = await World(tmp_path, level=2).form()
    await world.build("v", 5, "tokyo")
    node = world.node()
    node.hear("m-tokyo", v=1)
    assert await delete(node) == 0
    assert world.state.releases
    with pytest.raises(LevelTooLow):
        await node.restore(1, RestoreRequest(), who=WHO, request_id=None)
    assert (await node.trash()).keep_h == 0
    await world.stop()


async def test_a_volume_in_use_is_not_deleted_unless_forced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimraft.site.trash.DETACH_WAIT_S", 0.05)
    monkeypatch.setattr("vimraft.site.trash.DETACH_STEP_S", 0.01)
    node = world.node()
    node.hear("m-osaka", v=2)
    with pytest.raises(ClientsAttached) as caught:
        await delete(node)
    assert caught.value.managers == ("m-osaka",)
    assert "v" in world.state.volumes
    assert await delete(node, force=True)


async def test_a_volume_held_read_only_takes_writes_again_when_let_go(world: World) -> None:
    node = world.node()
    for held in (True, False):
        reply = await node.set_read_only("v", ReadOnlyRequest(held), who=WHO, request_id=None)
        assert reply.volume.read_only is held is world.state.volumes["v"].read_only


async def test_its_owner_purges_what_was_kept_long_enough_and_nobody_else(world: World) -> None:
    owner, other = Node(world, "m-tokyo"), Node(world, "m-osaka")
    trash_id, clock = await trashed_now(world, owner)
    mine, others = keeper(owner, clock), keeper(other, clock)
    clock.pass_(72 * HOUR_MS - 1)
    for node in (owner, other):
        for name in ("m-tokyo", "m-osaka", "m-nagoya"):
            node.hear(name)
    assert mine.due() == []
    clock.pass_(1)
    assert mine.due() == [trash_id]
    assert others.due() == []
    await mine.look()
    assert not world.state.trash
    assert world.state.releases


async def test_the_first_manager_that_is_heard_purges_for_an_owner_that_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Node(world, "m-nagoya")
    trash_id, clock = await trashed_now(world, other)
    its = keeper(other, clock)
    clock.pass_(72 * HOUR_MS)
    monkeypatch.setattr(other.health, "is_up", lambda name: name == "m-nagoya")
    assert its.due() == [trash_id]


async def test_nothing_is_purged_while_clocks_are_apart(world: World) -> None:
    owner = Node(world, "m-tokyo")
    trash_id, clock = await trashed_now(world, owner)
    its = keeper(owner, clock)
    clock.pass_(73 * HOUR_MS)
    owner.hear("m-osaka", sent_ms=world.now_ms - 2 * HOUR_MS)
    owner.hear("m-nagoya")
    assert its.due() == []
    owner.hear("m-osaka")
    assert its.due() == [trash_id]


async def test_a_clock_that_leaps_forward_purges_nothing(world: World) -> None:
    owner = Node(world, "m-tokyo")
    trash_id, clock = await trashed_now(world, owner)
    its = keeper(owner, clock)
    world.now_ms += 1000 * HOUR_MS
    for name in ("m-osaka", "m-nagoya"):
        owner.hear(name)
    assert its.due() == []
    clock.pass_(72 * HOUR_MS)
    for name in ("m-osaka", "m-nagoya"):
        owner.hear(name)
    assert its.due() == [trash_id]
