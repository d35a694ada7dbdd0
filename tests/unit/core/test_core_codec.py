"""Bytes for the log and the snapshot."""

import pytest

from tests.core_cases import build, three_sites
from vimraft.core import codec
from vimraft.core.commands import DeleteVolume, RenewLease
from vimraft.core.tables import State


def filled() -> State:
    tables = three_sites()
    tables.applied(build("gone", 3))
    tables.applied(DeleteVolume("gone"))
    tables.applied(build("v", 150, sectors=7))
    tables.applied(RenewLease("m-tokyo", "life", 1, 0))
    return tables.state


@pytest.mark.parametrize("state", [State(), filled()])
def test_tables_come_back_as_they_were(state):
    assert codec.decode_state(codec.encode_state(state)) == state


def test_equal_tables_have_equal_bytes_whatever_came_first():
    state = filled()
    turned = state._replace(
        managers=type(state.managers)(sorted(state.managers.items(), reverse=True)),
        clients=type(state.clients)(reversed(list(state.clients.items()))),
    )
    assert codec.encode_state(turned) == codec.encode_state(state)
    assert codec.state_digest(turned) == codec.state_digest(state)


def test_any_difference_changes_the_digest():
    state = filled()
    assert codec.state_digest(state._replace(next_release_id=99)) != codec.state_digest(state)


@pytest.mark.parametrize("decode", [codec.decode_request, codec.decode_outcome, codec.decode_state])
@pytest.mark.parametrize("data", [b"", b"\x00", b"\x02\xc0", b"\x01", b"\x01\xc1", b"\x01\x81\xff\xff"])
def test_foreign_bytes_are_a_codec_error(decode, data):
    with pytest.raises(codec.CodecError):
        decode(data)


def test_a_torn_snapshot_is_a_codec_error():
    data = codec.encode_state(filled())
    for length in range(0, len(data), 97):
        with pytest.raises(codec.CodecError):
            codec.decode_state(data[:length])
