"""Pickles are read only as far as old journals need it, and never run anything."""

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pysyncobj.journal
import pysyncobj.pickle
import pysyncobj.serializer
import pysyncobj.syncobj
import pysyncobj.tcp_connection
import pytest
from pysyncobj.node import TCPNode

import vimraft.metadata.pysyncobj  # noqa: F401 - installs it
from vimraft.metadata.pysyncobj.unpickle import MAX_PICKLE_BYTES, UnpicklingRefused, loads


class Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._what = (function, arguments)

    def __reduce__(self) -> Any:
        return self._what


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        None,
        {"currentTerm": 7, "votedForNodeId": "127.0.0.1:1"},
        (0, (b"\x00\xff codec bytes", b"")),
        ["add", "127.0.0.1:1", 1.5, -(1 << 70), True, {1, 2}, frozenset({3})],
    ],
)
def test_what_old_journals_hold_is_read(value: object, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == value


def test_a_membership_change_of_the_first_release_is_read() -> None:
    kind, address, node = loads(pysyncobj.pickle.dumps(["add", "127.0.0.1:1", TCPNode("127.0.0.1:1")]))
    assert (kind, address) == ("add", "127.0.0.1:1")
    assert isinstance(node, TCPNode)
    assert node == TCPNode("127.0.0.1:1")


READERS = {
    "pickle": pysyncobj.pickle.loads,
    "pickle.load": lambda data: pysyncobj.pickle.load(io.BytesIO(data)),
    "journal": pysyncobj.journal.loads,
    "syncobj": pysyncobj.syncobj.pickle.loads,
    "serializer": lambda data: pysyncobj.serializer.pickle.load(io.BytesIO(data)),
    "tcp_connection": pysyncobj.tcp_connection.pickle.loads,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_is_run_through_any_reader(reader: str, protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for bad in (Runs(os.system, f"touch {mark}"), Runs(eval, f"open({str(mark)!r}, 'w')"), Runs(exec, "1")):
        with pytest.raises(UnpicklingRefused, match="names"):
            READERS[reader](pickle.dumps(bad, protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "bad",
    [
        pickle.dumps(Runs(getattr, TCPNode, "address")),
        pickle.dumps(Runs(__import__, "antigravity")),
        pickle.dumps(Path("/")),
        b"c_codecs\nencode\n(Vx\nVzlib\ntR.",
        b"Pid.",
        b"",
        b"\x80",
        b"\x80\x02.",
        b"(" * 100_000,
        bytes(MAX_PICKLE_BYTES + 1),
    ],
)
def test_other_pickles_are_refused(bad: bytes) -> None:
    with pytest.raises(UnpicklingRefused):
        loads(bad)


def test_a_pickle_cannot_change_the_class_it_may_name() -> None:
    # Sets an attribute on the class itself, by a state with slots.
    evil = b"\x80\x02cpysyncobj.node\nTCPNode\n(N}X\x07\x00\x00\x00addressX\x04\x00\x00\x00evilstb."
    pickletools.dis(evil, io.StringIO())
    loads(evil)
    assert TCPNode("127.0.0.1:1").address == "127.0.0.1:1"
