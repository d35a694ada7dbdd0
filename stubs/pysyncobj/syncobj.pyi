"""Hand-written for 0.3.17, what vimraft uses only. Names that begin with _SyncObj__ are private to
PySyncObj and are typed here because the exact version is pinned."""

from collections.abc import Callable, Iterable
from typing import Any

from .journal import Journal
from .node import Node, TCPNode
from .pipe_notifier import PipeNotifier
from .transport import Transport

class FAIL_REASON:
    SUCCESS: int
    QUEUE_FULL: int
    MISSING_LEADER: int
    DISCARDED: int
    NOT_LEADER: int
    LEADER_CHANGED: int
    REQUEST_DENIED: int
    UNKNOWN_OUTCOME: int

class SyncObjException(Exception):
    errorCode: Any

class SyncObjConf:
    logCompactionBatchSize: int
    def __init__(self, **kwargs: Any) -> None: ...

class SyncObj:
    _SyncObj__raftLog: Journal
    _SyncObj__raftLeader: Node | None
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftElectionDeadline: float
    _SyncObj__lastResponseTime: dict[Node, float]
    _SyncObj__connectedNodes: set[Node]
    _SyncObj__otherNodes: set[Node]
    _SyncObj__transport: Transport
    _SyncObj__serializer: Any
    _SyncObj__pipeNotifier: PipeNotifier
    def __init__(
        self,
        selfNode: str | TCPNode,
        otherNodes: Iterable[str | TCPNode],
        conf: SyncObjConf | None = None,
        *,
        transportClass: type[Transport] = ...,
    ) -> None: ...
    def destroy(self) -> None: ...
    def doTick(self, timeToWait: float = 0.0) -> None: ...
    def addNodeToCluster(self, node: str, callback: Callable[[Any, int], None] | None = None) -> None: ...
    def removeNodeFromCluster(
        self, node: str, callback: Callable[[Any, int], None] | None = None
    ) -> None: ...
    def transferLeadership(
        self, node: str | None = None, callback: Callable[[Any, int], None] | None = None
    ) -> None: ...
    def forceLogCompaction(self) -> None: ...
    @property
    def otherNodes(self) -> set[Node]: ...
    @property
    def raftLastApplied(self) -> int: ...
    @property
    def raftCommitIndex(self) -> int: ...
    @property
    def raftCurrentTerm(self) -> int: ...
    def _isLeader(self) -> bool: ...
    def _getLeader(self) -> Node | None: ...
    def _getRaftLogSize(self) -> int: ...
    def _checkCommandsToApply(self) -> None: ...
    def _SyncObj__onMessageReceived(self, node: Node, message: dict[str, Any]) -> None: ...
    def _SyncObj__doApplyCommand(self, command: bytes) -> Any: ...
    def _SyncObj__changeCluster(self, request: list[Any]) -> bool: ...
    def _SyncObj__doChangeCluster(self, request: list[Any], reverse: bool = False) -> bool: ...

def replicated(func: Callable[..., Any]) -> Callable[..., Any]: ...
