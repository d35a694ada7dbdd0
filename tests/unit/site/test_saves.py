"""Deleting after the data were saved: nothing goes that is not somewhere else, byte for byte."""

import random
from pathlib import Path

import pytest

from tests.moves_case import WHO, MemoryDisk, Node, World, until
from vimraft.api.errors import ClientsAttached, Refused, TargetNotEmptied, TargetTooSmall
from vimraft.api.schema_moves import SaveRequest
from vimraft.core.commands import SetReadOnly
from vimraft.core.reasons import Invalid, NotFound
from vimraft.site import saving

MIB = 1 << 20


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saving, "CHUNK_BYTES", 64 << 10)
    monkeypatch.setattr(saving, "STRIDE_BYTES", 256 << 10)
    monkeypatch.setattr(saving, "DURABLE_BYTES", 1 << 20)
    made = await World(tmp_path).form()
    await made.build("v", 4, "tokyo")
    made.data["v"][:] = random.Random(7).randbytes(4 * MIB)
    made.data["v"][MIB : 2 * MIB] = bytes(MIB)
    yield made
    await made.stop()


async def save(node: Node, target: str = "kept", **how: object) -> str:
    return (await node.save("v", SaveRequest(target, **how), who=WHO)).id


async def test_the_data_are_saved_to_a_new_volume_and_the_old_one_is_in_the_trash(world: World) -> None:
    before = bytes(world.data["v"])
    node = world.node()
    done = await node.ended(await save(node, volume_class="hdd"))
    assert (done.state, done.done_bytes, done.total_bytes) == ("done", 8 * MIB, 8 * MIB)
    assert bytes(world.data["kept"]) == before
    assert world.state.volumes["kept"].volume_class == "hdd"
    assert "v" not in world.state.volumes
    (row,) = world.state.trash.values()
    assert (row.name, row.read_only) == ("v", True)
    disk = world.disks["kept"]
    assert disk.flushes
    assert not [w for w in disk.written if MIB <= w[0] < 2 * MIB]  # a new volume is zero already
    assert await node.records.load() == {}


async def test_it_can_be_deleted_for_good(world: World) -> None:
    node = world.node()
    assert (await node.ended(await save(node, purge=True))).state == "done"
    assert not world.state.trash
    assert [row.volume for row in world.state.releases.values()] == ["v"]


async def test_a_volume_that_exists_is_overwritten_only_when_asked(world: World) -> None:
    await world.build("kept", 5, "osaka")
    world.data["kept"][:] = b"x" * (5 * MIB)
    before = bytes(world.data["v"])
    node = world.node()
    with pytest.raises(TargetNotEmptied):
        await save(node)
    assert (await node.ended(await save(node, overwrite=True))).state == "done"
    assert bytes(world.data["kept"]) == before + b"x" * MIB


async def test_what_cannot_work_is_refused_before_the_volume_is_held(world: World) -> None:
    await world.build("small", 1, "osaka")
    node = world.node()
    with pytest.raises(TargetTooSmall):
        await save(node, "small", overwrite=True)
    for request, reason in (
        (SaveRequest("v"), Invalid),
        (SaveRequest("kept", volume_class="nvme"), object),
        (SaveRequest("kept", copies=9), object),
    ):
        with pytest.raises(Refused) as caught:
            await node.save("v", request, who=WHO)
        assert isinstance(caught.value.reason, reason)
    with pytest.raises(Refused) as caught:
        await node.save("w", SaveRequest("kept"), who=WHO)
    assert isinstance(caught.value.reason, NotFound)
    assert not world.state.volumes["v"].read_only


async def test_a_volume_in_use_is_held_only_when_forced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimraft.site.trash.DETACH_WAIT_S", 0.02)
    node = world.node()
    node.hear("m-osaka", v=1)
    with pytest.raises(ClientsAttached):
        await save(node)
    assert (await node.ended(await save(node, force=True))).state == "done"


async def test_a_difference_deletes_nothing_and_lets_the_volume_go(world: World) -> None:
    await world.build("kept", 4, "tokyo")
    disk = world.disks["kept"] = MemoryDisk(world.data["kept"])
    disk.spoil = 3
    node = world.node()
    ended = await node.ended(await save(node, overwrite=True))
    assert ended.state == "failed"
    assert "nothing was deleted" in ended.error.message
    volume = world.state.volumes["v"]
    assert not volume.read_only


async def test_after_a_lost_connection_it_copies_again_from_the_last_durable_place(world: World) -> None:
    await world.build("kept", 4, "tokyo")
    disk = world.disks["kept"] = MemoryDisk(world.data["kept"])
    disk.lose = 20
    before = bytes(world.data["v"])
    node = world.node()
    assert (await node.ended(await save(node, overwrite=True))).state == "done"
    assert bytes(world.data["kept"]) == before
    assert len(disk.written) > 48


async def test_it_goes_on_after_a_restart_where_it_was_durable(world: World) -> None:
    before = bytes(world.data["v"])
    first = world.node()
    stop_at = 3 * MIB

    class Slow(MemoryDisk):
        def write(self, data: memoryview, offset: int, *, fua: bool) -> None:
            if offset >= stop_at and self is world.disks["kept"]:
                raise OSError(5, "not now")
            super().write(data, offset, fua=fua)

    await world.build("kept", 4, "tokyo")
    world.disks["kept"] = Slow(world.data["kept"])
    job_id = await save(first, overwrite=True)
    ((_, record),) = first.records.running(object)
    assert (await first.ended(job_id)).state == "failed"  # of the disk: that ends a job
    assert not world.state.volumes["v"].read_only
    world.data["kept"][: 2 * MIB] = before[: 2 * MIB]
    world.disks["kept"] = MemoryDisk(world.data["kept"])
    row = world.state.volumes["kept"]
    done = type(record)(**{**{f: getattr(record, f) for f in record.__struct_fields__},
                           "target_created_ms": row.created_ms, "copied_bytes": 2 * MIB})  # fmt: skip
    await first.records.put(job_id, done)
    await first.stop()
    second = world.node()
    await until(lambda: second.job(job_id) is not None, "the job is there again")
    assert (await second.ended(job_id)).state == "done"
    assert bytes(world.data["kept"]) == before
    assert min(at for at, _ in world.disks["kept"].written) == 2 * MIB


async def test_cancelling_lets_the_volume_go_and_takes_the_new_one_away(world: World) -> None:
    node = world.node()
    world.nodes.append(node)
    node.health.latest = lambda _name: None  # type: ignore[method-assign]  # its owner is not heard
    node.site.me = "m-osaka"
    job_id = await save(node)
    await until(lambda: "waits until m-tokyo serves" in node.job(job_id).note, "it waits")
    assert world.state.volumes["v"].read_only
    await node.cancel_job(job_id, who=WHO)
    assert (await node.ended(job_id)).state == "failed"
    assert not world.state.volumes["v"].read_only
    assert sorted(world.state.volumes) == ["v"]


async def test_a_volume_that_was_writable_meanwhile_is_not_deleted(world: World) -> None:
    node = world.node()

    class Meddling(MemoryDisk):
        def flush(self) -> None:
            super().flush()
            for held in (False, True):
                world.meddle(SetReadOnly("v", held))

    await world.build("kept", 4, "tokyo")
    world.disks["kept"] = Meddling(world.data["kept"])
    ended = await node.ended(await save(node, overwrite=True))
    assert ended.state == "failed"
    assert "v" in world.state.volumes
