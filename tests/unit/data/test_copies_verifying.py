"""Comparing copies in the export: asked again and again, told each time, gone on with."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.copies_memory import copies_map
from tests.copies_owner import Plane, eventually
from vimraft.data import feed
from vimraft.data.copies import verifying
from vimraft.data.feed import VerifyCopies, VerifyTold
from vimraft.protocol.verify import Tally

REGIONS = 8
WANTED = VerifyCopies("a.1", "v", Tally())


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b")))
    plane.lease()
    plane.open()
    plane.wait_serving()
    return plane


def told(plane: Plane, wanted: VerifyCopies) -> VerifyTold:
    plane.volumes.verify(wanted)
    return next(m for m in reversed(plane.told) if isinstance(m, VerifyTold))


def ended(plane: Plane, wanted: VerifyCopies) -> VerifyTold:
    eventually(lambda: told(plane, wanted).state != "running", "it ends")
    return told(plane, wanted)


def test_a_difference_is_found_and_repaired_from_the_copy_that_was_named(plane: Plane) -> None:
    plane.stores["b"].data["B"][3 << 20] = 7
    found = ended(plane, WANTED)
    assert found.state == "over"
    assert (found.tally.compared, found.tally.differing) == (REGIONS, 1)
    mended = ended(plane, replace(WANTED, id="a.2", repair=True, source="A"))
    assert (mended.tally.differing, mended.tally.repaired) == (1, 1)
    assert plane.stores["b"].data["B"] == plane.stores["a"].data["A"]
    assert ended(plane, replace(WANTED, id="a.3")).tally.clean


def test_one_at_a_time_which_goes_on_from_the_tally_that_comes_with_it(plane: Plane) -> None:
    plane.links.cut.add("b")
    known = replace(Tally(), done=3, compared=3, copies={"A": 3, "B": 3})
    assert told(plane, replace(WANTED, tally=known)).state == "running"
    assert told(plane, replace(WANTED, id="a.2")).state == "busy"
    plane.links.cut.discard("b")
    found = ended(plane, WANTED)
    assert (found.tally.done, found.tally.compared) == (REGIONS, REGIONS)
    asked = [r.first >> 20 for r in plane.stores["a"].requests if r.kind == "checksum"]
    assert min(asked) == 3


def test_it_is_stopped_and_may_be_gone_on_with(plane: Plane) -> None:
    assert told(plane, replace(WANTED, stop=True)).state == "stopped"
    plane.links.cut.add("b")
    told(plane, WANTED)
    told(plane, replace(WANTED, stop=True))
    plane.links.cut.discard("b")
    eventually(lambda: told(plane, replace(WANTED, stop=True)).state == "stopped", "it stops")
    assert ended(plane, WANTED).tally.clean


def test_whoever_is_not_asked_any_more_stops(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "PATIENCE_S", -1)
    plane.links.cut.add("b")
    told(plane, WANTED)
    eventually(lambda: told(plane, replace(WANTED, id="a.2")).state != "busy", "the other one is given up")


def test_who_does_not_own_it_says_so(plane: Plane) -> None:
    newer = copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=2, owner="b")
    plane.volumes.close(plane.volume, plane.feed_map(newer))
    assert told(plane, WANTED) == feed.VerifyTold(
        "a.1", "moved", Tally(), "this manager does not own it with several copies"
    )
