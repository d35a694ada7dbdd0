"""The log of a stopped manager: what is in it, and a directory that goes on from given tables alone.

May live here: reading a Raft directory without changing it, and writing the first directory of a new
generation. Nobody may have the directory open: the caller holds the manager's lock.
"""

from pathlib import Path
from typing import Final

from msgspec import Struct

from vimraft.core.apply import apply
from vimraft.core.tables import State
from vimraft.metadata.port import LogError
from vimraft.metadata.pysyncobj import batches
from vimraft.metadata.pysyncobj import identity as identities
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.disk import OsDisk
from vimraft.metadata.pysyncobj.identity import Identity
from vimraft.metadata.pysyncobj.members import Member
from vimraft.metadata.pysyncobj.records import LogEntry
from vimraft.metadata.pysyncobj.recovery import recover, rewrite
from vimraft.metadata.pysyncobj.scratch import ScratchDisk
from vimraft.metadata.pysyncobj.snapshot_file import Snapshot

_NO_OP: Final = b"\x01"


class Found(Struct, frozen=True):
    state: State
    """After everything in the log, committed or not."""
    committed: State
    """After what is known here to be committed."""
    undecided: int
    """Commands after the last one known to be committed."""
    last_index: int
    term: int
    identity: Identity
    members: tuple[str, ...]
    voters: tuple[str, ...]


def read_log(config: PySyncObjConfig) -> Found | None:
    """None: there is no log. Raises CorruptData, Misconfigured, OSError; changes nothing."""
    if not holds_log(config.raft_dir):
        return None
    found = recover(ScratchDisk(OsDisk(config.raft_dir)), config)
    try:
        entries = found.journal[:]
        commit, term = found.journal.getRaftCommitIndex(), found.journal.getCurrentTerm()
    finally:
        found.journal._destroy()
    state, applied = (State(), 0) if found.snapshot is None else (found.snapshot.state, found.snapshot.index)
    committed, undecided = state, 0
    for command, index, entry_term in entries:
        term = max(term, entry_term)
        if index <= applied:
            continue
        if batches.for_tables(command):
            for data in batches.split(command):
                state, _ = apply(state, data)
                undecided += index > commit
        if index <= commit:
            committed = state
    return Found(
        state=state,
        committed=committed,
        undecided=undecided,
        last_index=max(applied, entries[-1][1] if entries else 0),
        term=term,
        identity=found.identity,
        members=tuple(sorted(found.members)),
        voters=tuple(sorted(m.address for m in found.members.values() if m.voter)),
    )


def holds_log(raft_dir: Path) -> bool:
    """Whether there is more than a lock file."""
    return raft_dir.is_dir() and any(path.name != "lock" for path in raft_dir.iterdir())


def write_generation(
    directory: Path,
    state: State,
    *,
    self_address: str,
    cluster: str,
    generation: int,
    after: Found | None,
    birth: str = "",
) -> None:
    """A Raft directory with exactly these tables and this node as the only voter. `after`: the log that it
    goes on from, whose indices it continues. Raises SyncFailed, OSError."""
    # Not before 3: the journal then begins with entry 2, behind the first entry that every new node has of
    # itself, and whoever joins is sent the snapshot.
    index = 3 if after is None else max(3, after.last_index)
    term = 1 if after is None else max(1, after.term)
    identity = identities.make((self_address,))
    identity = Identity(identity.node_id, cluster, generation, birth)
    # Not the entries themselves: a membership change among them would be in force again.
    previous: LogEntry = (_NO_OP, index - 1, term)
    last: LogEntry = (_NO_OP, index, term)
    directory.mkdir(mode=0o700)
    rewrite(
        OsDisk(directory),
        Snapshot(
            members=(Member(self_address, identity.node_id),),
            previous=previous,
            last=last,
            state=state,
            cluster=cluster,
            generation=generation,
            birth=birth,
            config_index=index,
        ),
        identity,
    )


def generation_of(raft_dir: Path) -> int:
    """Of the directory, whatever else is damaged in it; 0 if that cannot be read either."""
    try:
        identity = identities.load(OsDisk(raft_dir))
    except (LogError, OSError):
        return 0
    return identity.generation if identity is not None else 0


def new_birth() -> str:
    """What tells this generation from another of the same number."""
    return identities.new_birth()


def cluster_of(members: tuple[str, ...]) -> str:
    """Identity of a cluster that these form together."""
    return identities.cluster_of(members)
