"""Options of the Raft node, and what they become in PySyncObj.

May live here: options, bounds and the reasons for the values. The settings that follow from
PySyncObj's behaviour (batching, waiting for a leader, bind address) are decided here and nowhere else.
"""

import ipaddress
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct
from pysyncobj import SyncObjConf

from vimraft.metadata.pysyncobj.errors import Misconfigured
from vimraft.metadata.pysyncobj.handshake import TlsFiles
from vimraft.metadata.pysyncobj.tls import check_tls

TICK_S: Final = 0.02
"""Longest sleep of the node's thread. Messages and commands wake it at once; this bounds how late
timers (heartbeat, election) may fire."""
FALLBACK_ELECTIONS: Final = 2
"""A leader without a majority for this many longest election timeouts steps down."""
CONNECTION_RETRY_S: Final = 0.2
SNAPSHOT_CHUNK_BYTES: Final = 256 << 10
BATCH_BYTES: Final = 64 << 10
COMMAND_QUEUE: Final = 16_384
"""Must stay below 65,536: one byte each waits in a pipe that PySyncObj writes without blocking."""


MAKE_CERTIFICATES: Final = (
    "make certificates with vimraft tls init and vimraft tls issue, and name them in the [tls] section"
)


def is_loopback(address: str) -> bool:
    """Of host:port."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class PySyncObjConfig(Struct, frozen=True, kw_only=True):
    self_address: str
    """host:port that other members reach this node at; it listens there and nowhere else."""
    members: tuple[str, ...] = ()
    """First start only; afterwards the node remembers. With `self_address` among them (or alone):
    these form the cluster together. Without: this node joins them, after `add_member` there."""
    data_dir: Path
    """Files go to `data_dir`/raft."""
    election_min_ms: int = 400
    """A follower that hears nothing for a time between these two, drawn anew each time, asks to be elected;
    it helps nobody else to an election who has heard the leader within the shorter one.

    Between the death of a leader and the first new commit lie: the first of the followers' timeouts (of two
    followers 400 + 500/3 = 570 ms on average, 790 ms in 19 of 20 cases), and three round trips with a sync
    each: pre-vote (no sync), vote, first entry. On one site: 0.6 s, and 0.9 s in 19 of 20 cases. With a round
    trip of 100 ms between sites: 0.9 s, and 1.2 s. Who asks while another asks gives way, so that timeouts
    that lie closer together than a round trip cost no second election.

    A live leader is heard every 100 ms + what delay varies by: three heartbeats in a row must come 100 ms
    late before anyone asks, and then the others, who have heard it, say nothing. 100 ms of delay itself do
    no harm: it is the same for every heartbeat. Slower links than that, or managers that stand still for
    longer (snapshots of their machine): raise both, and heartbeat_ms with them."""
    election_max_ms: int = 900
    heartbeat_ms: int = 100
    """Less than a third of election_min_ms. Commands do not wait for it; a follower that fell behind does."""
    compaction_entries: int = 20_000
    """Commands after which a node writes a snapshot, and drops the log before it."""
    journal_slack_bytes: int = 4 << 20
    """The journal's file is written anew once so many of its bytes are of entries that a snapshot covers.
    Doing it takes two syncs, in which nothing is acknowledged."""
    cluster: str = ""
    """First start of a node that joins: the identity of the cluster, as the one who let it in has said, so
    that it never comes into another. "": the first leader that knows this node tells."""
    generation: int = 0
    birth: str = ""
    tls: TlsFiles | None = None
    """Mutual TLS between the members. None: plain TCP, on loopback only, and only with:"""
    allow_plaintext: bool = False

    @property
    def raft_dir(self) -> Path:
        return self.data_dir / "raft"

    @property
    def journal_path(self) -> Path:
        return self.raft_dir / "journal"

    @property
    def snapshot_path(self) -> Path:
        return self.raft_dir / "snapshot"

    @property
    def members_path(self) -> Path:
        return self.raft_dir / "members.json"

    @property
    def fallback_ms(self) -> int:
        """A leader that no majority answers for so long (1.8 s) steps down; acknowledges nothing meanwhile.
        Longer than an election, so that it does not give up while the others only change sides."""
        return FALLBACK_ELECTIONS * self.election_max_ms

    @property
    def connection_timeout_ms(self) -> int:
        """Silence after which a link is dead. Longer than any pause that elections tolerate."""
        return max(3_500, 2 * self.fallback_ms)

    def check(self) -> None:
        """Raises Misconfigured."""
        if not 0 < 3 * self.heartbeat_ms < self.election_min_ms < self.election_max_ms:
            raise Misconfigured(
                f"raft timings: heartbeat_ms {self.heartbeat_ms} must be less than a third of "
                f"election_min_ms {self.election_min_ms}, which must be less than election_max_ms "
                f"{self.election_max_ms}"
            )
        if self.compaction_entries < 10:
            raise Misconfigured(f"compaction_entries {self.compaction_entries}: at least 10")
        self._check_links()

    def _check_links(self) -> None:
        if self.tls is not None:
            check_tls(self.tls, self.self_address)
        elif not is_loopback(self.self_address):
            raise Misconfigured(
                f"raft address {self.self_address} can be reached from other hosts and has no certificate: "
                f"{MAKE_CERTIFICATES}"
            )
        elif not self.allow_plaintext:
            raise Misconfigured(
                f"raft address {self.self_address} has no certificate: {MAKE_CERTIFICATES}; or, since it is "
                "a loopback address, allow plain links with network.allow_plaintext = true"
            )

    def to_pysyncobj(self) -> SyncObjConf:
        return SyncObjConf(
            autoTick=False,  # the stock thread ends when the thread that made the node ends
            appendEntriesUseBatch=False,  # 0.4 ms a commit instead of a heartbeat period
            commandsWaitLeader=False,  # a clear "no leader" instead of a wait without bound
            dynamicMembershipChange=False,  # the node changes members itself (see membership.py)
            bindAddress=self.self_address,  # the default listens on every interface
            maxBindRetries=1,
            raftMinTimeout=self.election_min_ms / 1000,
            raftMaxTimeout=self.election_max_ms / 1000,
            appendEntriesPeriod=self.heartbeat_ms / 1000,
            leaderFallbackTimeout=self.fallback_ms / 1000,
            connectionTimeout=self.connection_timeout_ms / 1000,
            connectionRetryTime=CONNECTION_RETRY_S,
            appendEntriesBatchSizeBytes=BATCH_BYTES,
            logCompactionBatchSize=SNAPSHOT_CHUNK_BYTES,
            commandsQueueSize=COMMAND_QUEUE,
            # The node decides itself when to compact (forceLogCompaction), so never by these two:
            logCompactionMinEntries=sys.maxsize,
            logCompactionMinTime=sys.maxsize,
            useFork=False,
            journalFile=None,  # handed over by journal_hook
            fullDumpFile="replaced",  # never looked at: the node loads what recovery has checked
            # Present so that PySyncObj pickles no live object; the node replaces the serializer that
            # would call them (see snapshot.py).
            serializer=_replaced,
            deserializer=_replaced,
        )


def _replaced(*_: object) -> None:
    raise AssertionError("the stock serializer must have been replaced by SnapshotExchange")
