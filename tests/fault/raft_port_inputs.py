"""What a stranger, a broken peer or an attacker may send to the Raft port.

Each input is bytes to send, over TLS or not, and how to end the connection. Nothing here is a message that
a member could mean: whatever it changes in a node is a violation.
"""

import pickle
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vimraft.metadata.pysyncobj import wire
from vimraft.metadata.pysyncobj.handshake import PROTOCOL, Hello, Ready, Refusal, encode_frame


class Input(NamedTuple):
    name: str
    data: bytes
    identity: str = "none"
    """Certificate, where the port speaks TLS: raw (no TLS at all), none, foreign, peer (of the phantom)."""
    pieces: int = 1
    end: str = "wait"
    """wait: for the other end to close, for a while · close · reset · hold: stay half open"""


class Scene(NamedTuple):
    """What an attacker may know."""

    target: str
    phantom: str
    """A member that does not run; greater than `target`, so it is the one that dials."""
    cluster: str
    node_id: str
    """Of the phantom: known to all since the cluster was formed."""
    mark: Path
    """Appears if anything sent is executed."""


class _Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        import os

        return os.system, (self.command,)


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def _hello(scene: Scene, **changed: Any) -> bytes:
    given = {
        "protocol": PROTOCOL,
        "cluster": scene.cluster,
        "generation": 1,
        "node_id": scene.node_id,
        "address": scene.phantom,
    }
    return frame(encode_frame(Hello(**{**given, **changed})))


def _pickles(scene: Scene) -> list[bytes]:
    evil = _Runs(f"touch {scene.mark}")
    return [pickle.dumps(value, 2) for value in (evil, [evil], {"type": "append_entries", "entries": evil})]


def _messages(scene: Scene, chance: random.Random) -> bytes:
    """One that a node must refuse."""
    term = chance.choice([-1, 0, 1, 5, 1 << 59, 1 << 63])
    entry = (bytes([chance.choice([0, 2, 3, 128])]) + chance.randbytes(chance.randint(0, 40)), 9, 1)
    kinds: list[Any] = [
        {"type": "set_version", "term": term},
        {"type": "append_entries", "term": term},
        {"type": "append_entries", "term": 1 << 58, "commit_index": 1 << 58, "entries": [entry]},
        {
            "type": "append_entries",
            "term": 9,
            "commit_index": 1,
            "entries": [entry],
            "prevLogIdx": 1,
            "prevLogTerm": 0,
        },
        {"type": "append_entries", "term": 9, "commit_index": 1, "transmission": "start", "data": b"x"},
        {"type": "request_vote", "term": str(term), "last_log_index": 1, "last_log_term": 1},
        {"type": "request_vote", "term": 1 << 62, "last_log_index": 1, "last_log_term": 1},
        {"type": "next_node_idx", "next_node_idx": -5, "reset": True, "success": True, "term": 1},
        {"type": "apply_command", "command": _pickles(scene)[0]},
        {"type": "apply_command", "command": b"\x03" + _pickles(scene)[0]},
        {"type": "timeout_now"},
        ["add", scene.phantom],
        [["type", "vimraft_ping"]] * 3,
        {"type": "vimraft_ping", "x": 1},
        "readonly",
        None,
        chance.random(),
    ]
    try:
        data = msgspec.msgpack.encode(chance.choice(kinds))
    except OverflowError:
        data = b"\xc1"
    if chance.random() < 0.5:
        damaged = bytearray(
            wire.encode({"type": "request_vote", "term": 9, "last_log_index": 1, "last_log_term": 1})
        )
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        data = bytes(damaged[: chance.randint(1, len(damaged))])
    try:
        wire.decode(data)
    except wire.WireError:
        return data
    return b"\xc1" + data  # a member could have meant it: not any more


def _random(_: Scene, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(1, 5_000))


def _long_frame(_: Scene, chance: random.Random) -> bytes:
    length = chance.choice([4097, 1 << 20, (4 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF])
    return length.to_bytes(4, "big") + chance.randbytes(chance.randint(0, 9_000))


def _truncated_hello(scene: Scene, chance: random.Random) -> bytes:
    data = _hello(scene)
    return data[: chance.randrange(1, len(data))]


def _damaged_hello(scene: Scene, chance: random.Random) -> bytes:
    data = bytearray(_hello(scene, node_id="damaged"))
    for _ in range(chance.randint(1, 5)):
        data[chance.randrange(4, len(data))] = chance.randrange(256)
    return bytes(data)


def _wrong_hello(scene: Scene, chance: random.Random) -> bytes:
    changes: list[dict[str, Any]] = [
        {"cluster": "another"},
        {"cluster": ""},
        {"generation": 2},
        {"protocol": PROTOCOL + 1},
        {"node_id": "of another disk"},
        {"node_id": ""},
        {"address": "127.0.0.1:1"},
        {"address": scene.target},
        {"address": "x" * 255},
        {"address": "\x1b[2Jred\n"},
    ]
    return _hello(scene, **chance.choice(changes))


def _after_hello(scene: Scene, chance: random.Random) -> bytes:
    start = _hello(scene) + frame(encode_frame(Ready()))
    rest: list[Callable[[], bytes]] = [
        lambda: frame(_messages(scene, chance)),
        lambda: frame(chance.randbytes(chance.randint(1, 3_000))),
        lambda: (wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big") + bytes(100),
        lambda: bytes(4),
        lambda: frame(chance.choice(_pickles(scene))),
        lambda: frame(b"\x91" * 50_000),
        lambda: frame(b"\xdd\xff\xff\xff\xff"),
        lambda: frame(bytes(200_000)),
        lambda: (1 << 20).to_bytes(4, "big") + bytes(50_000),
        lambda: _hello(scene),
        lambda: frame(encode_frame(Refusal("other-cluster", "\x1b[31m" * 20))),
    ]
    return start + chance.choice(rest)()


def _before_hello(scene: Scene, chance: random.Random) -> bytes:
    return chance.choice(
        [
            frame(encode_frame(Ready())),
            frame(encode_frame(Refusal("protocol", "x"))),
            frame(_messages(scene, chance)),
            frame(wire.encode({"type": "vimraft_ping"})),
            _hello(scene, node_id="twice") * 2,
            bytes(4),
        ]
    )


def _stock_client(scene: Scene, chance: random.Random) -> bytes:
    """PySyncObj's own frames: length in native order, zlib, pickle."""
    said: list[bytes] = [
        *_pickles(scene),
        pickle.dumps("readonly", 2),
        pickle.dumps(scene.phantom, 2),
        pickle.dumps(["add", "127.0.0.1:1"], 2),
        pickle.dumps(["set_version", 1], 2),
        bytes(5 << 20),
    ]
    return b"".join(
        struct.pack("i", len(packed)) + packed
        for packed in (zlib.compress(one) for one in chance.sample(said, 2))
    )


def _http(_: Scene, chance: random.Random) -> bytes:
    return chance.choice(
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"OPTIONS * RTSP/1.0\r\n\r\n", b"SSH-2.0-x\r\n"]
    )


def _tls_like(_: Scene, chance: random.Random) -> bytes:
    body = chance.randbytes(chance.randint(0, 600))
    return (
        bytes([chance.choice([0x14, 0x15, 0x16, 0x17]), 3, chance.randrange(5)])
        + len(body).to_bytes(2, "big")
        + body
    )


_MAKERS: list[Callable[[Scene, random.Random], bytes]] = [
    _random,
    _long_frame,
    _truncated_hello,
    _damaged_hello,
    _wrong_hello,
    _after_hello,
    _after_hello,
    _before_hello,
    _stock_client,
    _http,
    _tls_like,
]


def make_input(scene: Scene, chance: random.Random, *, tls: bool) -> Input:
    maker = chance.choice(_MAKERS)
    data = maker(scene, chance)
    identity = "raw"
    if tls:
        identity = chance.choice(["raw", "none", "foreign", "peer", "peer", "peer"])
    end = chance.choices(["wait", "close", "reset", "hold"], [10, 3, 2, 1])[0]
    if end == "hold" and chance.random() < 0.5:
        data = b""
    pieces = chance.choice([1, 1, 1, 2, 7])
    return Input(maker.__name__.strip("_"), data, identity, pieces, end)
