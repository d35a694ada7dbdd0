"""Levels: a cluster of level 1 gives the bytes of the first release; what it takes to rise."""

import lzma
from pathlib import Path

import msgspec
import pytest

from tests.core_cases import SITES, Tables, build, manager, three_sites
from vimraft.core import codec, levels
from vimraft.core.apply import apply
from vimraft.core.commands import (
    Applied,
    Barrier,
    FormCluster,
    ReadsLevel,
    Rejected,
    Rejoin,
    Request,
    SetLevel,
    SetManager,
    TrashVolume,
)
from vimraft.core.reasons import CannotRead, Invalid, Malformed
from vimraft.core.tables import Settings, State

FIXTURES = Path(__file__).parents[2] / "fixtures"
EVERYBODY = tuple(ReadsLevel(f"m-{site}", levels.LATEST) for site in SITES)


def written(level):
    packed = FIXTURES / f"format{level}" / "core" / "log.msgpack.xz"
    return msgspec.msgpack.decode(lzma.decompress(packed.read_bytes()))


@pytest.mark.parametrize("level", [1, 2])
def test_the_log_of_an_earlier_level_gives_its_outcomes_and_tables(level):
    entries, last = written(level)
    state = State()
    for number, (request, outcome, digest) in enumerate(entries):
        state, answer = apply(state, request)
        theirs, ours = codec.decode_outcome(outcome), codec.decode_outcome(answer)
        if isinstance(theirs, Rejected) and isinstance(theirs.reason, Malformed):
            assert isinstance(ours, Rejected), number  # the wording of a defect may improve
            assert isinstance(ours.reason, Malformed), number
        else:
            assert answer == outcome, number
        assert codec.state_digest(state) == digest.hex(), number
    assert codec.encode_state(state) == last
    assert state.level == level


@pytest.mark.parametrize("level", [1, 2])
def test_tables_of_an_earlier_level_are_read_and_written_back_alike(level):
    _, last = written(level)
    assert b"".join(codec.encode_state_pieces(codec.decode_state(last))) == last
    assert codec.encode_state(codec.decode_state(last)) == last


def test_a_cluster_formed_by_this_release_is_of_its_level():
    tables = Tables()
    tables.applied(FormCluster("new", Settings(), level=levels.LATEST))
    assert tables.state.level == levels.LATEST
    assert codec.encode_state(tables.state)[0] == levels.LATEST
    assert codec.decode_state(codec.encode_state(tables.state)) == tables.state


def test_a_cluster_rises_once_every_manager_has_said_that_it_can_read_it():
    tables = three_sites()
    tables.applied(SetLevel(levels.LATEST, EVERYBODY))
    assert tables.state.level == levels.LATEST
    assert {row.level for row in tables.state.managers.values()} == {levels.LATEST}
    assert tables.state.history[-1].what == "level-raised"
    tables.applied(SetLevel(levels.LATEST))


def test_managers_that_cannot_read_a_level_or_are_unknown_are_named():
    tables = three_sites()
    assert tables.refused(SetLevel(levels.LATEST, EVERYBODY[1:])) == CannotRead(levels.LATEST, ("m-tokyo",))
    said = (ReadsLevel("m-tokyo", 1), *EVERYBODY[1:])
    assert tables.refused(SetLevel(levels.LATEST, said)) == CannotRead(levels.LATEST, ("m-tokyo",))


def test_a_manager_that_joins_while_the_cluster_rises_is_noticed():
    tables = three_sites()
    tables.applied(SetManager(manager("m-late", 9)))
    assert tables.refused(SetLevel(levels.LATEST, EVERYBODY)) == CannotRead(levels.LATEST, ("m-late",))


def test_the_level_never_falls_and_old_managers_stay_out():
    tables = three_sites()
    tables.applied(SetLevel(levels.LATEST, EVERYBODY))
    assert isinstance(tables.refused(SetLevel(1)), Invalid)
    assert tables.refused(SetManager(manager("m-old", 9))) == CannotRead(levels.LATEST, ("m-old",))


def test_a_refused_rise_leaves_no_trace_that_a_first_release_would_not_leave():
    tables = three_sites()
    before = codec.encode_state(tables.state._replace(index=0))
    tables.refused(SetLevel(levels.LATEST))
    assert codec.encode_state(tables.state._replace(index=0)) == before


def test_requests_of_a_higher_level_are_refused_until_the_cluster_has_risen():
    state = three_sites().state
    request = codec.encode_request(Request("c", 1, 0, "me", Barrier()), levels.LATEST)
    after, answer = apply(state, request)
    outcome = codec.decode_outcome(answer)
    assert isinstance(outcome, Rejected)
    assert isinstance(outcome.reason, Malformed)
    assert after == state._replace(index=state.index + 1)


def test_requests_of_the_level_before_are_applied_after_the_rise():
    tables = three_sites()
    tables.applied(SetLevel(levels.LATEST, EVERYBODY))
    request = codec.encode_request(Request("c", 1, 0, "me", Barrier()), levels.FIRST)
    _, answer = apply(tables.state, request)
    assert answer[0] == levels.LATEST
    assert isinstance(codec.decode_outcome(answer), Applied)


@pytest.mark.parametrize("decode", [codec.decode_state, codec.decode_request, codec.decode_outcome])
def test_what_a_newer_release_wrote_is_refused_with_the_remedy(decode):
    with pytest.raises(codec.CodecError, match="start the release that wrote it"):
        decode(bytes([levels.LATEST + 1]) + b"\x80")


def test_the_bytes_of_level_one_carry_nothing_that_it_did_not_know():
    request = Request("c", 1, 0, "me", SetManager(manager("m-new", 9)))
    newer = Request("c", 1, 0, "me", SetManager(msgspec.structs.replace(request.command.manager, level=2)))
    first = codec.encode_request(request, levels.FIRST)
    assert b"level" not in first
    assert codec.decode_request(codec.encode_request(newer, levels.FIRST)) == request


def test_a_cluster_of_level_two_rises_once_every_row_says_that_it_can():
    tables = three_sites()
    tables.applied(SetLevel(2, EVERYBODY))
    tables.applied(build("v", 3))
    rows = [msgspec.structs.replace(row, level=2) for row in tables.state.managers.values()]
    tables.applied(SetManager(rows[0]))
    assert tables.refused(SetLevel(levels.COPIES, EVERYBODY)) == CannotRead(levels.COPIES, (rows[0].name,))
    tables.applied(SetManager(msgspec.structs.replace(rows[0], level=levels.COPIES)))
    tables.applied(SetLevel(levels.COPIES))
    tables.applied(Rejoin("m-tokyo", "one"))
    assert tables.state.volumes["v"].lossy_epoch == 0


@pytest.mark.parametrize("written_for", [1, 2])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_commands_of_level_three_written_for_a_lower_one_mean_nothing(level, written_for):
    tables = three_sites()
    if level > 1:
        tables.applied(SetLevel(level, EVERYBODY))
    tables.applied(build("v", 3))
    request = codec.encode_request(Request("c", 1, 0, "me", TrashVolume("v")), 3)
    after, answer = apply(tables.state, bytes([written_for]) + request[1:])
    outcome = codec.decode_outcome(answer)
    assert isinstance(outcome, Rejected)
    assert isinstance(outcome.reason, Malformed)
    assert after == tables.state._replace(index=tables.state.index + 1)
