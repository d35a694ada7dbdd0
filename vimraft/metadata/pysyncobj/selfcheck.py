"""Is this the PySyncObj that this package was written for? Asked at every start, before any file is opened.

May live here: the one list of everything private that this package uses, overrides or relies on, each with
its reason, and the checks of it. A release of PySyncObj that renames, changes or repairs one of these must
fail loudly: silently it would take a guard away.

`python -m vimraft.metadata.pysyncobj.selfcheck` prints the fingerprints that the installed one has.
"""

import hashlib
import importlib
import inspect
import linecache
import os
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from vimraft.metadata.pysyncobj.errors import Misconfigured
from vimraft.metadata.pysyncobj.unpickle import UnpicklingRefused

VERSION: Final = "0.3.17"
_MODULES: Final[dict[str, Any]] = {
    name: importlib.import_module(f"pysyncobj.{name}")
    for name in (
        "config",
        "fast_queue",
        "journal",
        "monotonic",
        "node",
        "pickle",
        "pipe_notifier",
        "poller",
        "serializer",
        "syncobj",
        "transport",
        "version",
    )
}
_REMEDY: Final = f"install the release that vimraft is made for: pip install pysyncobj=={VERSION}"


class Relied(Struct, frozen=True):
    """A function whose very text this package relies on."""

    fingerprint: str
    why: str


SYNCOBJ: Final[Mapping[str, Relied]] = {
    "__init__": Relied(
        "d95e659bcd75e66e", "have the node made with our journal, clock, poller and transport"
    ),
    "_onTick": Relied("997cabc32e4977bb", "count, apply and send in the order that the gate needs"),
    "_applyCommand": Relied("e52d2f343df3c6d6", "queue commands with callbacks"),
    "_checkCommandsToApply": Relied(
        "1bc734ab4bfc2ff9", "append commands of this node and of followers (overridden: intake)"
    ),
    "__applyLogEntries": Relied(
        "185efa65a86b6d2a",
        "apply what is committed (overridden: in portions, with callbacks that cannot raise)",
    ),
    "__doApplyCommand": Relied("ff91854365853ab6", "apply one entry (overridden: codec bytes, no pickles)"),
    "__onMessageReceived": Relied(
        "f9638539aebf5af0", "vote, append, count and install snapshots (filtered by inbox and matching)"
    ),
    "__callErrCallback": Relied("aa4696066c1449af", "answer commands that fail"),
    "__sendNextNodeIdx": Relied("71d445d8ddc407f7", "acknowledge through the transport's gate"),
    "__generateRaftTimeout": Relied("a3424c1452535367", "draw election timeouts"),
    "__onNodeConnected": Relied("0f239b1dcd1d9cc2", "know who is connected"),
    "__onNodeDisconnected": Relied(
        "fcaeb70d842a43b3", "know who is connected (overridden: ends snapshots under way)"
    ),
    "__getEntries": Relied("69b5a9acadd418c6", "find entries by index"),
    "__getPrevLogIndexTerm": Relied("7576692971ba5434", "say what precedes a batch"),
    "__deleteEntriesFrom": Relied(
        "593a7c5d4f472a98", "cut a conflicting tail (overridden: membership follows)"
    ),
    "__deleteEntriesTo": Relied(
        "4a2b77aaadc2e901", "trim the log behind a snapshot (overridden: membership follows)"
    ),
    "__onBecomeLeader": Relied("3983a9c33c3089af", "begin a term with a no-op entry (overridden)"),
    "__setCurrentTerm": Relied("4945cca4d85f8926", "store term and vote before they are spoken of"),
    "__setState": Relied("30e2bdeb0df7f12f", "change between follower, candidate and leader (overridden)"),
    "__onLeaderChanged": Relied("0b0100a02675dd3a", "fail what was forwarded to the old leader"),
    "__sendAppendEntries": Relied(
        "67aecd11c6ffa959", "send batches, and snapshots in parts (overridden: outbox)"
    ),
    "__connectedToAnyone": Relied(
        "2527d25dc93aa09e", "ask whether to stand for election (overridden: pre-vote)"
    ),
    "__tryLogCompaction": Relied("2b3fd3e309fa6620", "write snapshots only when the node asks for one"),
    "__loadDumpFile": Relied(
        "a4ccc8dfee12e561", "install a received snapshot (overridden: nothing is swallowed)"
    ),
    "transferLeadership": Relied("b09325d7150a428e", "hand over before leaving"),
    "forceLogCompaction": Relied("b0df3424b0c0314a", "compact when the node asks for it"),
    "_isLeader": Relied("223d15b4f85dec4d", "know who leads"),
    "_getLeader": Relied("2891427784080a3d", "know who leads"),
    "_getRaftLogSize": Relied("64f3383da10eb1ed", "know when to compact"),
    "addOnTickCallback": Relied("98fcac1ac033854a", "run the gate and the links once a round"),
    "doTick": Relied("07f09e41e0c556d9", "run rounds in the node's own thread"),
    "_doDestroy": Relied("f0b6a42896fa41be", "close transport and journal at the end"),
}
"""Methods of SyncObj, as named inside the class."""

OTHERS: Final[Mapping[str, Relied]] = {
    "transport.Transport": Relied("4ffc317c35c5b20e", "be a transport of its own"),
    "poller.PollPoller": Relied("dfb1c9ca54ef12d7", "register sockets and be told of their events"),
    "pipe_notifier.PipeNotifier": Relied("1917b7f56e28337b", "wake the node's thread"),
    "serializer.Serializer.checkSerializing": Relied(
        "bb56a1b13326e88b", "stand in for the serializer: results once, then nothing"
    ),
    "serializer.Serializer.getTransmissionData": Relied(
        "d660684db5ce3ebd", "stand in for the serializer: parts of a snapshot"
    ),
    "serializer.Serializer.setTransmissionData": Relied(
        "d2702029c9e9e95d", "stand in for the serializer: a whole snapshot or nothing"
    ),
    "journal.Journal": Relied("40e0f7cdde68c4d0", "be a journal of its own"),
    "journal.FileJournal": Relied("3d818b94d6dfc3b0", "read journals of the first release"),
    "journal.MetaStorer": Relied("a9c1847f58592640", "read journals of the first release"),
    "node.Node": Relied("18d05245ab92e0ec", "compare and hash nodes by address"),
    "node.TCPNode": Relied("ec324b4d91346095", "name nodes by address"),
    "fast_queue.FastQueue": Relied("60aacea994f56c8a", "bound the commands that wait"),
    "monotonic": Relied("9bb2621ae742e308", "compare deadlines with one clock"),
}
"""module.name or module.Class.name"""

ATTRIBUTES: Final[Mapping[str, str]] = {
    "__raftLog": "keep the journal",
    "__raftLeader": "follow nobody after stepping down",
    "__raftState": "know the role",
    "__raftCommitIndex": "clamp and store what is committed",
    "__raftLastApplied": "know what is applied",
    "__raftElectionDeadline": "postpone elections",
    "__raftNextIndex": "send what a follower lacks",
    "__raftMatchIndex": "count what followers hold",
    "__lastResponseTime": "know who answers",
    "__connectedNodes": "know who is connected",
    "__otherNodes": "hold voters",
    "__readonlyNodes": "hold observers",
    "__noopIDx": "know the first entry of a term",
    "__transferInProgress": "tell a hand-over from an election",
    "__commandsWaitingCommit": "answer proposers",
    "__commandsWaitingReply": "answer proposers",
    "__commandsLocalCounter": "number forwarded commands",
    "__newAppendEntriesTime": "know when the next heartbeat is due",
    "__needLoadDumpFile": "load nothing at start but what recovery found",
    "__serializer": "exchange snapshots",
    "__transport": "reach the links",
    "__pipeNotifier": "wake the node's thread",
    "__raftCurrentTerm": "know the term",
    "__votesCount": "count votes",
    "__conf": "know the options",
    "__changeClusterIDx": "change members itself",
    "_poller": "share the poller with the links",
}
"""Attributes that SyncObj gives itself in its constructor → why."""

VALUES: Final[Mapping[str, object]] = {
    "syncobj._COMMAND_TYPE.REGULAR": 0,
    "syncobj._COMMAND_TYPE.NO_OP": 1,
    "syncobj._COMMAND_TYPE.MEMBERSHIP": 2,
    "syncobj._COMMAND_TYPE.VERSION": 3,
    "syncobj._RAFT_STATE.FOLLOWER": 0,
    "syncobj._RAFT_STATE.CANDIDATE": 1,
    "syncobj._RAFT_STATE.LEADER": 2,
    "config.FAIL_REASON.SUCCESS": 0,
    "config.FAIL_REASON.QUEUE_FULL": 1,
    "config.FAIL_REASON.MISSING_LEADER": 2,
    "config.FAIL_REASON.DISCARDED": 3,
    "config.FAIL_REASON.NOT_LEADER": 4,
    "config.FAIL_REASON.LEADER_CHANGED": 5,
    "config.FAIL_REASON.REQUEST_DENIED": 6,
    "config.FAIL_REASON.UNKNOWN_OUTCOME": 7,
    "config.SERIALIZER_STATE.NOT_SERIALIZING": 0,
    "config.SERIALIZER_STATE.SERIALIZING": 1,
    "config.SERIALIZER_STATE.SUCCESS": 2,
    "config.SERIALIZER_STATE.FAILED": 3,
    "poller.POLL_EVENT_TYPE.READ": 1,
    "poller.POLL_EVENT_TYPE.WRITE": 2,
    "poller.POLL_EVENT_TYPE.ERROR": 4,
}
"""Numbers that are in journals, on the wire, or compared with."""


def check() -> None:
    """Raises Misconfigured, naming what differs."""
    installed = _MODULES["version"].VERSION
    if installed != VERSION:
        raise Misconfigured(f"pysyncobj is {installed}, not {VERSION}: {_REMEDY}")
    for name, relied in _all_relied().items():
        _check_function(name, relied)
    constructor = _source("syncobj.SyncObj.__init__")
    for name, why in ATTRIBUTES.items():
        if f"self.{name} =" not in constructor:
            raise _differs(f"SyncObj.{name} is gone, relied on to {why}")
    for name, value in VALUES.items():
        if _find(name) != value:
            raise _differs(f"{name} is {_find(name)!r}, not {value!r}")
    for behaves in (_reads_no_foreign_pickles, _takes_our_journal, _uses_one_clock):
        behaves()


def _all_relied() -> dict[str, Relied]:
    return {**{f"syncobj.SyncObj.{_mangled(name)}": r for name, r in SYNCOBJ.items()}, **OTHERS}


def _check_function(name: str, relied: Relied) -> None:
    found = _fingerprint(name)
    if found != relied.fingerprint:
        raise _differs(
            f"{name} is not the text relied on to {relied.why} ({found}, not {relied.fingerprint})"
        )


def _differs(what: str) -> Misconfigured:
    return Misconfigured(f"pysyncobj {VERSION} differs from the one vimraft is made for: {what}. {_REMEDY}")


def _mangled(name: str) -> str:
    private = name.startswith("__") and not name.endswith("__")
    return f"_SyncObj{name}" if private else name


def _find(name: str) -> Any:
    """Raises Misconfigured."""
    module, *path = name.split(".")
    found: Any = _MODULES[module]
    for part in path:
        found = getattr(found, part, None)
    if found is None:
        raise _differs(f"{name} is missing")
    return found


def _source(name: str) -> str:
    """Raises Misconfigured."""
    found = _find(name)
    try:
        return _lines_of(found) if isinstance(found, types.FunctionType) else inspect.getsource(found)
    except (OSError, TypeError) as error:
        raise _differs(f"the source of {name} cannot be read ({error})") from None


def _lines_of(function: types.FunctionType) -> str:
    """As inspect.getsource, which looks for the end of a function with a tokenizer written in Python: half of
    what all these checks take. Raises OSError."""
    code = inspect.unwrap(function).__code__
    lines = linecache.getlines(code.co_filename)
    if not lines:
        raise OSError("no source")
    return "".join(lines[code.co_firstlineno - 1 : _last_line(code)])


def _last_line(code: types.CodeType) -> int:
    inner = (_last_line(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return max((*(end for _, end, _, _ in code.co_positions() if end), *inner))


def _fingerprint(name: str) -> str:
    """Of the signature and the text, whatever its spacing. Raises Misconfigured."""
    text = " ".join(_source(name).split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- behaviour ------------------------------------------------------------------------------------


class _Harmful:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


def _reads_no_foreign_pickles() -> None:
    """Wherever it unpickles, it does so through unpickle.py."""
    harmful = pickle.dumps(_Harmful())
    for name in ("pickle.loads", "journal.loads", "syncobj.pickle.loads", "serializer.pickle.loads"):
        try:
            _find(name)(harmful)
        except UnpicklingRefused:
            continue
        raise _differs(f"{name} reads pickles that run commands")


class _Reached(Exception):
    pass


def _construct_until(hook: str) -> bool:
    """Does SyncObj's constructor call the global `hook` of its module? It runs on a copy of that module's
    names, so nothing else sees the probe, and ends there, before it makes threads or sockets."""

    def probe(*_: object) -> None:
        raise _Reached

    syncobj = _MODULES["syncobj"]
    real = syncobj.SyncObj.__init__
    names = {**vars(syncobj), hook: probe}
    init = types.FunctionType(real.__code__, names, real.__name__, real.__defaults__, real.__closure__)
    conf = _find("config.SyncObjConf")(autoTick=False)
    node = object.__new__(syncobj.SyncObj)
    try:
        init(node, _find("node.TCPNode")("127.0.0.1:1"), [], conf, transport=object())
    except _Reached:
        return True
    except Exception:  # noqa: BLE001 - it went past the hook and failed on the probe's transport
        return False
    return False


def _takes_our_journal() -> None:
    if not _construct_until("createJournal"):
        raise _differs("SyncObj does not make its journal by syncobj.createJournal")


def _uses_one_clock() -> None:
    """Deadlines are compared with this clock, and with no other."""
    if _find("syncobj.monotonicTime") is not _find("monotonic.monotonic"):
        raise _differs("syncobj.monotonicTime is not monotonic.monotonic")


def _print_fingerprints() -> None:
    for name in _all_relied():
        print(name, _fingerprint(name))  # noqa: T201


if __name__ == "__main__":
    _print_fingerprints()
