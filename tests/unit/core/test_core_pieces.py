"""Tables encoded in pieces give the bytes that they give at once."""

import lzma
from pathlib import Path

import msgspec
import pytest
from immutables import Map

from tests.core_cases import build, three_sites
from vimraft.core import pieces
from vimraft.core.apply import apply
from vimraft.core.codec import encode_state, encode_state_pieces
from vimraft.core.commands import SetLevel
from vimraft.core.tables import Replica, Run, Segment, State, Volume

LOG = Path(__file__).parents[2] / "fixtures" / "format1" / "core" / "log.msgpack.xz"


def large_volume(name: str, segments: int) -> Volume:
    each = tuple(Segment(i * 8, 8, "021a00", i % 300, i * 70_000) for i in range(segments))
    replicas = (Replica("volume A", "in_sync", each), Replica("volume B", "stale", each[:7]))
    return Volume(name, segments * 8, "ssd", "tokyo", 1, replicas, ("tokyo",), 0, "tokyo")


@pytest.mark.parametrize("rows", [1, 3, 20, 1_024])
def test_every_state_of_a_varied_log_has_the_same_bytes(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", rows)
    requests = msgspec.msgpack.decode(lzma.decompress(LOG.read_bytes()))[0]
    state = State()
    for number, (request, *_) in enumerate(requests):
        state, _ = apply(state, request)
        if number % 10 == 0:
            assert b"".join(encode_state_pieces(state)) == encode_state(state)


@pytest.mark.parametrize("rows", [2, 1_024])
def test_a_history_that_remembers_has_the_same_bytes(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", rows)
    tables = three_sites()
    tables.do(SetLevel(2))
    for i in range(5):
        tables.applied(build(f"v{i}", 10 + i))
    assert b"".join(encode_state_pieces(tables.state)) == encode_state(tables.state)


@pytest.mark.parametrize("segments", [15, 16, 1_024, 1_025, 66_000])
def test_large_rows_are_cut_and_no_piece_is_long(segments: int) -> None:
    tables = three_sites().state
    real = next(iter(tables.reals.values()))
    runs = tuple(Run(i * 3, 2) for i in range(segments))
    state = tables._replace(
        volumes=Map({name: large_volume(name, segments) for name in ("a", "b")}),
        reals=tables.reals.set(real.id, msgspec.structs.replace(real, free=runs)),
    )
    parts = list(encode_state_pieces(state))
    assert b"".join(parts) == encode_state(state)
    assert max(len(part) for part in parts) < 100 << 10
