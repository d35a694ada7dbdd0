"""Volumes that go to another class or other sites: step by step, with never fewer copies in sync."""

from pathlib import Path

import pytest

from tests.moves_case import WHO, Node, World, until
from vimraft.api.errors import Refused
from vimraft.api.schema_moves import MigrateRequest
from vimraft.core.commands import DeleteVolume
from vimraft.core.reasons import Invalid, NoSpaceForCopy, NotFound

HDD = MigrateRequest(volume_class="hdd")


@pytest.fixture
async def world(tmp_path: Path):
    made = await World(tmp_path).form()
    made.serve()
    yield made
    await made.stop()


async def migrate(node: Node, request: MigrateRequest, name: str = "v") -> str:
    return (await node.migrate(name, request, who=WHO)).id


async def test_every_copy_goes_to_the_class_at_its_own_site(world: World) -> None:
    await world.build("v", 5, "tokyo", "osaka", copies=2)
    node = world.node()
    assert (await node.ended(await migrate(node, HDD))).state == "done"
    volume = world.state.volumes["v"]
    assert world.reals_of("v") == {"t:2", "o:2"}
    assert volume.volume_class == "hdd"
    assert world.worst_in_sync["v"] == 2


async def test_a_single_copy_goes_to_another_site(world: World) -> None:
    await world.build("v", 5, "tokyo")
    node = world.node()
    done = await node.ended(await migrate(node, MigrateRequest(sites=("osaka",))))
    assert done.state == "done"
    assert world.reals_of("v") == {"o:0"}
    assert world.worst_in_sync["v"] == 1


async def test_what_lies_as_asked_is_left_alone(world: World) -> None:
    volume = await world.build("v", 5, "tokyo")
    node = world.node()
    request = MigrateRequest(volume_class="ssd", sites=("tokyo", "osaka"))
    assert (await node.ended(await migrate(node, request))).state == "done"
    assert world.state.volumes["v"].epoch == volume.epoch


async def test_a_migration_goes_on_after_a_restart(world: World) -> None:
    await world.build("v", 5, "tokyo", "osaka", copies=2)
    world.exporting = False
    first = world.node()
    job_id = await migrate(first, HDD)
    await until(lambda: len(world.state.volumes["v"].replicas) == 3, "a copy more")
    assert await migrate(first, HDD) == job_id
    await first.stop()
    second = world.node()
    world.exporting = True
    await until(lambda: second.job(job_id) is not None, "the job is there again")
    assert (await second.ended(job_id)).state == "done"
    assert world.reals_of("v") == {"t:2", "o:2"}


async def test_cancelling_takes_away_the_copy_that_was_not_ready(world: World) -> None:
    before = (await world.build("v", 5, "tokyo", "osaka", copies=2)).replicas
    world.exporting = False
    node = world.node()
    job_id = await migrate(node, HDD)
    await until(lambda: "is stale" in node.job(job_id).note, "it waits for the copy")
    await node.cancel_job(job_id, who=WHO)
    assert (await node.ended(job_id)).error.message == "migrate v was cancelled"
    assert world.state.volumes["v"].replicas == before


async def test_a_migration_ends_with_its_volume(world: World) -> None:
    await world.build("v", 5, "tokyo")
    world.exporting = False
    node = world.node()
    job_id = await migrate(node, HDD)
    await until(lambda: len(world.state.volumes["v"].replicas) == 2, "a copy more")
    await world.do(DeleteVolume("v"))
    await world.build("v", 1, "tokyo")
    ended = await node.ended(job_id)
    assert ended.error.code == "conflict"
    assert len(world.state.volumes["v"].replicas) == 1


async def test_what_cannot_be_migrated_is_refused_before_anything_is_done(world: World) -> None:
    volume = await world.build("v", 5, "tokyo", "osaka", copies=2)
    node = world.node()
    for request, name, reason in (
        (MigrateRequest(), "v", Invalid),
        (HDD, "w", NotFound),
        (MigrateRequest(volume_class="nvme"), "v", NoSpaceForCopy),
        (MigrateRequest(sites=("osaka",)), "v", NoSpaceForCopy),
    ):
        with pytest.raises(Refused) as caught:
            await migrate(node, request, name)
        assert isinstance(caught.value.reason, reason)
    assert world.state.volumes["v"] == volume
    assert node.site.jobs.all() == []
    job_id = await migrate(node, MigrateRequest(sites=("osaka",), same_site=True))
    assert (await node.ended(job_id)).state == "done"
    assert world.reals_of("v") == {"o:0", "o:1"}
