"""Comparing copies as a job: who is asked, what survives a change of owner or a restart, what it says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.moves_case import WHO, Node, World, until
from vimraft.api.advice import from_exception
from vimraft.api.errors import Refused
from vimraft.api.errors_copies import NothingToCompare, SourceNeeded
from vimraft.api.schema_verify import VerifyRequest
from vimraft.core.commands import DeleteVolume, Retire
from vimraft.data.feed import VerifyCopies, VerifyTold
from vimraft.protocol.comparing import Difference
from vimraft.protocol.verify import Tally
from vimraft.site import record_jobs, verifications

MIB = 1 << 20
COMPARE = VerifyRequest()


class Export:
    """Compares a region with every question."""

    def __init__(self) -> None:
        self.asked: list[VerifyCopies] = []
        self.end: Callable[[Tally], Tally] = lambda tally: tally
        self.seen = self.end
        """When it is stopped."""
        self.rest_at = 1 << 30
        """It does not get further."""

    async def verify(self, wanted: VerifyCopies, timeout_s: float) -> VerifyTold:
        self.asked.append(wanted)
        tally = replace(wanted.tally, regions=5)
        if wanted.stop:
            return VerifyTold(wanted.id, "stopped", self.seen(tally))
        if tally.done < min(tally.regions, self.rest_at):
            done = tally.done + 1
            tally = replace(tally, done=done, compared=done, copies={"A": done, "B": done})
        over = tally.done == tally.regions
        return VerifyTold(wanted.id, "over" if over else "running", self.end(tally) if over else tally)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verifications, "LOOK_S", 0.001)
    monkeypatch.setattr(record_jobs, "RETRY_S", 0.001)
    made = await World(tmp_path).form()
    await made.build("v", 5, "tokyo", "osaka", copies=2)
    yield made
    await made.stop()


def node_of(world: World, export: Export, name: str = "m-tokyo") -> tuple[Node, list[tuple[str, ...]]]:
    """With the events that it records."""
    events: list[tuple[str, ...]] = []

    async def record(*event: str) -> None:
        events.append(event)

    node = world.node(name)
    node.site.token = "t"
    node.copies_part = export  # type: ignore[assignment]
    node.site.record = record  # type: ignore[method-assign]
    return node, events


async def test_the_job_ends_with_what_was_found_and_an_event(world: World) -> None:
    export = Export()
    node, events = node_of(world, export)
    job = await node.verify("v", COMPARE, who=WHO)
    assert job.what == "verify v"
    done = await node.ended(job.id)
    assert done.state == "done"
    report = done.verified
    assert (report.regions, report.compared, report.differing, report.clean) == (5, 5, 0, True)
    assert [(c.name, c.sites, c.compared) for c in report.copies] == [
        ("A", ("tokyo",), 5),
        ("B", ("osaka",), 5),
    ]
    assert (done.done_bytes, done.total_bytes) == (5 * MIB, 5 * MIB)
    assert [event[:3] for event in events] == [("copies.verified", "v", "info")]
    assert len({asked.id for asked in export.asked}) == 1


async def test_differences_are_told_by_ranges(world: World) -> None:
    export = Export()
    found = Difference(MIB, 2 * MIB, (("A",), ("B",)))
    export.end = lambda tally: replace(tally, differing=1, differences=(found,))
    node, events = node_of(world, export)
    job = await node.verify("v", COMPARE, who=WHO)
    done = await node.ended(job.id)
    assert done.state == "done", "it has done what it was for"
    assert not done.verified.clean
    (event,) = events
    assert event[:3] == ("copies.differ", "v", "error")
    assert f"{MIB}-{2 * MIB - 1}" in event[3]


async def test_what_could_not_be_compared_is_told_as_that(world: World) -> None:
    export = Export()
    export.end = lambda tally: replace(tally, skipped=2, compared=3, why="copy B at m-osaka: no answer")
    node, events = node_of(world, export)
    done = await node.ended((await node.verify("v", COMPARE, who=WHO)).id)
    assert not done.verified.clean
    assert events[0][0] == "copies.not_compared"
    assert "no answer" in events[0][3]


async def test_a_new_owner_goes_on_with_the_tally(world: World) -> None:
    export = Export()
    export.rest_at = 2
    node, _ = node_of(world, export)
    job = await node.verify("v", COMPARE, who=WHO)
    await until(lambda: node.job(job.id).done_bytes == 2 * MIB, "two regions")
    await world.hand_over("v", "m-osaka")
    await until(lambda: "waits" in node.job(job.id).note, "nobody answers at m-osaka here")
    asked = len(export.asked)
    export.rest_at = 5
    await world.hand_over("v", "m-tokyo")
    assert (await node.ended(job.id)).state == "done"
    assert export.asked[asked].tally.done == 2


async def test_it_goes_on_after_a_restart_under_the_same_id(world: World) -> None:
    export = Export()
    export.rest_at = 2
    first, _ = node_of(world, export)
    job = await first.verify("v", COMPARE, who=WHO)
    again = await first.verify("v", COMPARE, who=WHO)
    assert again.id == job.id
    await until(lambda: first.job(job.id).done_bytes == 2 * MIB, "two regions")
    await first.stop()
    export.rest_at = 5
    second, _ = node_of(world, export)
    await until(lambda: second.job(job.id) is not None, "the job is there again")
    assert (await second.ended(job.id)).verified.clean
    assert {asked.id for asked in export.asked} == {job.id}


async def test_cancelling_stops_it_at_its_owner(world: World) -> None:
    export = Export()
    export.rest_at = 2
    node, events = node_of(world, export)
    job = await node.verify("v", COMPARE, who=WHO)
    await node.cancel_job(job.id, who=WHO)
    ended = await node.ended(job.id)
    assert ended.error.message == "verify v was cancelled"
    assert export.asked[-1].stop
    assert events == []


async def test_what_was_found_before_it_was_cancelled_is_told(world: World) -> None:
    export = Export()
    export.rest_at = 0
    node, events = node_of(world, export)
    job = await node.verify("v", COMPARE, who=WHO)
    export.seen = lambda tally: replace(tally, done=3, compared=3, differing=1)
    await node.cancel_job(job.id, who=WHO)
    await node.ended(job.id)
    assert [event[0] for event in events] == ["copies.differ"]
    assert "3 of 5 regions" in events[0][3]


async def test_it_ends_with_its_volume(world: World) -> None:
    export = Export()
    export.rest_at = 2
    node, _ = node_of(world, export)
    job = await node.verify("v", COMPARE, who=WHO)
    await world.do(DeleteVolume("v"))
    assert (await node.ended(job.id)).error.code == "conflict"


async def test_what_cannot_be_done_is_refused_before(world: World) -> None:
    node, _ = node_of(world, Export())
    with pytest.raises(SourceNeeded) as raised:
        await node.verify("v", VerifyRequest(repair=True), who=WHO)
    assert "--source" in from_exception(raised.value).reply.remedy
    for request in (VerifyRequest(repair=True, source="Z"), VerifyRequest(source="A")):
        with pytest.raises(Refused):
            await node.verify("v", request, who=WHO)
    volume = world.state.volumes["v"]
    await world.do(Retire("v", volume.epoch, volume.owner, ("B",), "r"))
    with pytest.raises(NothingToCompare) as raised_too:
        await node.verify("v", COMPARE, who=WHO)
    assert "fewer than two copies in sync" in from_exception(raised_too.value).reply.message


async def test_a_repair_carries_its_source(world: World) -> None:
    export = Export()
    export.end = lambda tally: replace(tally, differing=1, repaired=1)
    node, events = node_of(world, export)
    job = await node.verify("v", VerifyRequest(repair=True, source="B"), who=WHO)
    assert job.what == "repair v"
    assert (await node.ended(job.id)).verified.clean
    assert (export.asked[0].repair, export.asked[0].source) == (True, "B")
    assert events[0][0] == "copies.repaired"
