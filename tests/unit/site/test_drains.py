"""Emptying real volumes and sites: what is moved by whom, what stops it, and that it survives restarts."""

from pathlib import Path

import pytest

from tests.moves_case import WHO, Node, World, until
from vimraft.api.errors import LevelTooLow, RealFailed, Refused
from vimraft.core.commands import AbortMove, BeginMove, Retire, SetRealVolumeState, TrashVolume
from vimraft.core.ids import RealId
from vimraft.core.reasons import NoSpaceForCopy, NotFound
from vimraft.site.drain_plan import MAX_MOVING, blocked, left_on, next_moves

MIB = 1 << 20
T0 = RealId("t", 0)


@pytest.fixture
async def world(tmp_path: Path):
    made = await World(tmp_path).form()
    yield made
    await made.stop()


async def set_state(world: World, lun: int, state: str, storage: str = "t") -> None:
    await world.do(SetRealVolumeState(storage, lun, state))


async def drain(node: Node, storage: str = "t", lun: int = 0) -> str:
    return (await node.drain_real(storage, lun, who=WHO, request_id=None)).id


# what is to be done


async def test_only_the_owner_moves_a_volume_off_a_draining_real_volume(world: World) -> None:
    volume = await world.build("v", 5, "tokyo")
    assert next_moves(world.state, "m-tokyo") == []
    await set_state(world, 0, "draining")
    expected = BeginMove("v", volume.epoch, "m-tokyo", volume.replicas[0].local_name, "t", 0)
    assert next_moves(world.state, "m-tokyo") == [expected]
    assert next_moves(world.state, "m-osaka") == []


async def test_few_volumes_move_at_a_time(world: World) -> None:
    for number in range(4):
        await world.build(f"v{number}", 2, "tokyo")
    await set_state(world, 0, "draining")
    moves = next_moves(world.state, "m-tokyo")
    assert [move.volume for move in moves] == ["v0", "v1"]
    for move in moves:
        await world.do(move)
    assert len(moves) == MAX_MOVING
    assert next_moves(world.state, "m-tokyo") == []


async def test_a_move_off_a_real_volume_that_is_in_use_again_is_taken_back(world: World) -> None:
    await world.build("v", 5, "tokyo")
    await set_state(world, 0, "draining")
    (move,) = next_moves(world.state, "m-tokyo")
    await world.do(move)
    await set_state(world, 0, "failed")  # what still can be read had better go
    assert next_moves(world.state, "m-tokyo") == []
    await set_state(world, 0, "excluded")
    (back,) = next_moves(world.state, "m-tokyo")
    assert isinstance(back, AbortMove)
    await world.do(back)
    assert next_moves(world.state, "m-tokyo") == []


async def test_where_the_volume_may_not_lie_yet_is_looked_at_after_its_own_sites(world: World) -> None:
    await world.build("v", 15, "tokyo")
    await world.build("full", 15, "tokyo")
    await set_state(world, 0, "draining")
    assert next_moves(world.state, "m-tokyo") == []
    why = blocked(world.state, frozenset({T0}))[0]
    assert why.volume in ("v", "full")
    assert isinstance(why.reason, NoSpaceForCopy)
    await world.prefer("tokyo", "nagoya")
    (move,) = next_moves(world.state, "m-tokyo")
    assert move.sites == ("tokyo", "nagoya")


async def test_a_copy_that_is_out_of_sync_is_waited_for(world: World) -> None:
    volume = await world.build("v", 5, "tokyo", "osaka", copies=2)
    first = volume.replicas[1].local_name
    await world.do(Retire("v", volume.epoch, "m-tokyo", (first,)))
    await set_state(world, 0, "draining", "o")
    assert next_moves(world.state, "m-tokyo") == []
    (why,) = blocked(world.state, frozenset({RealId("o", 0)}))
    assert (why.replica, why.state, why.reason) == (first, "stale", None)


async def test_what_lies_on_a_real_volume_is_counted_by_whom_it_is_for(world: World) -> None:
    await world.build("v", 5, "tokyo")
    await world.build("w", 3, "tokyo")
    await world.do(TrashVolume("w"))
    left = left_on(world.state, frozenset({T0}))
    assert (left.volume_bytes, left.trash_bytes, left.releasing_bytes) == (5 * MIB, 3 * MIB, 0)
    assert (left.volumes, left.trashed) == (("v",), ("w",))


# jobs


async def test_a_real_volume_is_emptied_and_every_copy_keeps_its_redundancy(world: World) -> None:
    await world.build("v", 5, "tokyo", "osaka", copies=2)
    await world.build("w", 3, "tokyo")
    world.serve()
    node = world.node()
    done = await node.ended(await drain(node))
    assert done.state == "done"
    assert done.total_bytes == done.done_bytes >= 8 * MIB
    assert "t:0" not in world.reals_of("v") | world.reals_of("w")
    assert world.state.reals[T0].free_units == world.state.reals[T0].capacity_units
    assert world.state.reals[T0].state == "draining"
    assert world.worst_in_sync == {"v": 2, "w": 1}


async def test_a_drain_goes_on_with_the_next_life_of_the_manager_under_the_same_job(world: World) -> None:
    await world.build("v", 5, "tokyo")
    world.exporting = False
    world.serve()
    first = world.node()
    job_id = await drain(first)
    await until(lambda: world.state.volumes["v"].replicas[0].moving, "it moves")
    await first.stop()
    second = world.node()
    await until(lambda: second.job(job_id) is not None, "the job is there again")
    world.exporting = True
    assert (await second.ended(job_id)).state == "done"
    assert "t:0" not in world.reals_of("v")


async def test_a_cancelled_drain_takes_back_what_is_under_way(world: World) -> None:
    await world.build("v", 5, "tokyo")
    world.exporting = False
    world.serve()
    node = world.node()
    job_id = await drain(node)
    await until(lambda: world.state.volumes["v"].replicas[0].moving, "it moves")
    await node.cancel_job(job_id, who=WHO)
    ended = await node.ended(job_id)
    assert ended.error.message == "drain t:0 was cancelled"
    await until(lambda: not world.state.volumes["v"].replicas[0].moving, "taken back")
    assert world.state.reals[T0].state == "active"
    assert world.reals_of("v") == {"t:0"}


async def test_a_drain_says_what_it_waits_for(world: World) -> None:
    await world.build("v", 15, "tokyo")
    await world.build("full", 15, "tokyo")
    await world.build("gone", 2, "tokyo")
    await world.do(TrashVolume("gone"))
    node = world.node()
    job_id = await drain(node)
    await until(lambda: "no room for copy" in node.job(job_id).note, "no space")
    assert node.job(job_id).note.startswith("copy ")


async def test_the_trash_keeps_a_real_volume_from_being_empty(world: World) -> None:
    await world.build("gone", 2, "tokyo")
    trashed = await world.do(TrashVolume("gone"))
    world.serve()
    node = world.node()
    job_id = await drain(node)
    await until(lambda: "waits for the trash: gone" in node.job(job_id).note, "said")
    await node.purge(trashed.index, who=WHO, request_id=None)
    assert (await node.ended(job_id)).state == "done"


async def test_what_cannot_be_drained_is_refused(world: World) -> None:
    node = world.node()
    with pytest.raises(Refused) as caught:
        await drain(node, "t", 9)
    assert isinstance(caught.value.reason, NotFound)
    await set_state(world, 0, "failed")
    with pytest.raises(RealFailed):
        await drain(node)
    with pytest.raises(RealFailed):
        await node.drain_site("tokyo", who=WHO)
    assert world.state.reals[T0].state == "failed"


async def test_below_level_3_nothing_is_drained(tmp_path: Path) -> None:
    world = await World(tmp_path, level=2).form()
    node = world.node()
    with pytest.raises(LevelTooLow):
        await drain(node)
    assert world.state.reals[T0].state == "active"
    await world.stop()


async def test_a_site_is_emptied_and_its_volumes_are_handed_over(world: World) -> None:
    await world.prefer("tokyo", "nagoya")
    await world.build("v", 5, "tokyo", "osaka", copies=2)
    await world.build("w", 3, "tokyo")
    world.serve()
    node = world.node()
    handed: list[tuple[str, str]] = []

    async def hand_over(volume: str, new_owner: str) -> None:
        handed.append((volume, new_owner))
        await world.hand_over(volume, new_owner)

    node.owner_mover = hand_over
    job = await node.drain_site("tokyo", who=WHO)
    assert job.id == (await node.drain_site("tokyo", who=WHO)).id
    assert (await node.ended(job.id)).state == "done"
    assert not {r for r in world.reals_of("v") | world.reals_of("w") if r.startswith("t:")}
    assert handed == [("v", "m-nagoya"), ("w", "m-nagoya")], "of whatever number of copies"
    assert not [v.name for v in world.state.volumes.values() if v.owner == "m-tokyo"]
    assert world.worst_in_sync == {"v": 2, "w": 1}


async def test_draining_a_site_goes_on_after_a_restart(world: World) -> None:
    await world.prefer("tokyo", "nagoya")
    await world.build("w", 3, "tokyo", "osaka", copies=2)
    world.exporting = False
    world.serve()
    first = world.node()
    job = await first.drain_site("tokyo", who=WHO)
    await until(lambda: any(r.moving for r in world.state.volumes["w"].replicas), "it moves")
    await first.stop()
    second = world.node()
    second.owner_mover = world.hand_over
    world.exporting = True
    await until(lambda: second.job(job.id) is not None, "the job is there again")
    assert (await second.ended(job.id)).state == "done"
    assert await second.records.load() == {}
