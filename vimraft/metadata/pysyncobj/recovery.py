"""What a restart finds: identity, snapshot, journal and members, checked against each other.

May live here: the checks before the node starts, the end of what a crash interrupted, and `rewrite`.
Whatever cannot be explained by a crash stops the start (CorruptData): never start empty.

The orders that make every interruption explicable:
- first start: members.json, journal, identity.json; where an identity is, there was a whole directory;
- compaction: snapshot, then the journal is trimmed (the journal's oldest two entries are the snapshot's
  last two); a received snapshot: snapshot, then the journal restarts from it;
- every name that is found is made durable before anything else;
- rewrite: everything goes into one file first, from which the others are made again as often as needed.
"""

import zlib
from typing import Final

import msgspec
from msgspec import Struct, structs

from vimraft.metadata.pysyncobj import identity as identities
from vimraft.metadata.pysyncobj import legacy, records
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.disk import Disk, read_whole, write_durably
from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData, Misconfigured
from vimraft.metadata.pysyncobj.identity import IDENTITY, Identity
from vimraft.metadata.pysyncobj.journal import JOURNAL, DurableJournal, create_journal, open_journal
from vimraft.metadata.pysyncobj.members import (
    MEMBERS,
    Member,
    MembersFile,
    by_address,
    fold,
    load_members,
    save_members,
    voters_at,
)
from vimraft.metadata.pysyncobj.records import Contents, LogEntry
from vimraft.metadata.pysyncobj.snapshot_file import (
    SNAPSHOT,
    Snapshot,
    decode_snapshot,
    encode_snapshot,
    load_snapshot,
)

REPLACEMENT: Final = "replacement"
_LEFT_OVER: Final = ("snapshot.new", "snapshot.incoming", "journal.new")


class Recovered(Struct, frozen=True):
    snapshot: Snapshot | None
    initial_members: tuple[str, ...]
    """The voters when this directory was new: what the log began with, if there is no snapshot. None at a
    node that joined."""
    members: dict[str, Member]
    """In force now: the latest configuration in the log."""
    identity: Identity
    node_ids: dict[str, str]
    """Address → id of the node that was met there."""
    contacts: tuple[str, ...]
    """Whom a node that joins calls."""
    met: tuple[str, ...]
    """Of `initial_members`: who has been met (see formation.py)."""
    journal: DurableJournal
    """Open. It holds at least the snapshot's last two entries, if there is a snapshot."""


def recover(disk: Disk, config: PySyncObjConfig) -> Recovered:
    """Raises CorruptData, Misconfigured, SyncFailed, OSError."""
    # A process that died may have left names in the cache only, and what follows relies on them: a journal
    # that is trimmed to a snapshot must not outlive the snapshot's name.
    disk.sync_names()
    _finish_rewrite(disk)
    identity = legacy.convert(disk, config.self_address) if legacy.present(disk) else identities.load(disk)
    if identity is None:
        identity = _first_start(disk, config)
    legacy.clean(disk)
    for name in _LEFT_OVER:
        disk.remove(name)
    snapshot = load_snapshot(disk)
    remembered = load_members(disk)
    if remembered is None:
        raise CorruptData(f"{disk.describe(MEMBERS)}: missing beside an existing log. {REMEDY}")
    journal = open_journal(disk, identity.stamp)
    try:
        identity = _same_cluster(disk, identity, snapshot)
        _align(disk, snapshot, journal)
        base = voters_at(remembered.initial) if snapshot is None else by_address(snapshot.members)
        try:
            members = fold(base, (command for command, _, _ in journal[:]))
        except ValueError as error:
            raise CorruptData(
                f"{disk.describe(JOURNAL)}: a membership change cannot be read: {error}. {REMEDY}"
            ) from error
    except BaseException:
        journal._destroy()
        raise
    return Recovered(
        snapshot,
        remembered.initial,
        members,
        identity,
        dict(remembered.node_ids),
        remembered.contacts,
        remembered.met,
        journal,
    )


def _first_start(disk: Disk, config: PySyncObjConfig) -> Identity:
    """Also the second attempt at one that was interrupted."""
    left_over = read_whole(disk, JOURNAL)
    if disk.exists(SNAPSHOT) or (left_over is not None and not _is_blank(disk, left_over)):
        raise CorruptData(f"{disk.describe(IDENTITY)}: missing beside an existing log. {REMEDY}")
    remembered = load_members(disk)
    if remembered is None:
        if not config.members:
            raise Misconfigured(
                f"{config.raft_dir} is new and no members are given: name the Raft addresses of the "
                "managers that form the cluster, or join a running one"
            )
        members = tuple(sorted(set(config.members)))
        if config.self_address in members:
            remembered = MembersFile(members, tuple(Member(address) for address in members))
        else:  # members may have come and gone: only the log knows them
            remembered = MembersFile((), contacts=members)
        save_members(disk, remembered)
    forming = config.self_address in remembered.initial
    identity = identities.make(remembered.initial, forming=forming)
    if not forming and config.cluster:
        identity = structs.replace(
            identity, cluster=config.cluster, generation=config.generation, birth=config.birth
        )
    create_journal(disk, identity.stamp)._destroy()
    identities.save(disk, identity)
    return identity


def _is_blank(disk: Disk, data: bytes) -> bool:
    contents = records.read(data, disk.describe(JOURNAL), None).contents
    return not contents.entries and contents.term == 0


def _same_cluster(disk: Disk, identity: Identity, snapshot: Snapshot | None) -> Identity:
    if snapshot is None or not snapshot.cluster:
        return identity
    if not identity.cluster:
        return identities.adopt(disk, identity, snapshot.cluster, snapshot.generation, snapshot.birth)
    if _life(snapshot) != _life(identity):
        raise CorruptData(
            f"{disk.describe(SNAPSHOT)}: is of cluster {_said(snapshot)}; {disk.describe(IDENTITY)} says "
            f"{_said(identity)}: files of two directories have been mixed. {REMEDY}"
        )
    return identity


def _life(of: Snapshot | Identity) -> tuple[str, int, str]:
    return of.cluster, of.generation, of.birth


def _said(of: Snapshot | Identity) -> str:
    return f"{of.cluster}, generation {of.generation}" + (f" ({of.birth})" if of.birth else "")


def _align(disk: Disk, snapshot: Snapshot | None, journal: DurableJournal) -> None:
    """Have the journal begin with the snapshot's last two entries."""
    if snapshot is None:
        if len(journal) and journal[0][1] != 1:
            raise CorruptData(
                f"{disk.describe(SNAPSHOT)}: missing; the journal begins at entry {journal[0][1]}. {REMEDY}"
            )
        return
    if not len(journal):
        journal.restart(snapshot.previous, snapshot.last)
        return
    start = snapshot.previous[1] - journal[0][1]
    if start < 0:
        raise CorruptData(
            f"{disk.describe(SNAPSHOT)}: ends at entry {snapshot.index}, but the journal begins at "
            f"{journal[0][1]}: it is an older file. {REMEDY}"
        )
    present = [_key(entry) for entry in journal[start : start + 2]]
    if present == [_key(snapshot.previous), _key(snapshot.last)]:
        journal.deleteEntriesTo(start)
        journal.setRaftCommitIndex(max(journal.getRaftCommitIndex(), snapshot.index))
        return
    if len(present) == 2 and journal.getRaftCommitIndex() >= snapshot.index:
        raise CorruptData(
            f"{disk.describe(SNAPSHOT)}: entry {snapshot.index} is another one in the journal, and both "
            f"say it is committed. {REMEDY}"
        )
    # It came from a leader and is ahead of this journal, or replaces its tail.
    journal.restart(snapshot.previous, snapshot.last)


def _key(entry: LogEntry) -> tuple[int, int]:
    return entry[1], entry[2]


# --- a directory made anew ------------------------------------------------------------------------------


class _Replacement(Struct, frozen=True, array_like=True):
    crc: int
    identity: Identity
    snapshot: bytes


_replacement = msgspec.msgpack.Decoder(_Replacement)


def rewrite(disk: Disk, snapshot: Snapshot, identity: Identity) -> None:
    """The directory holds exactly this snapshot, under this identity, or (if the power fails before this
    returns) what it held before, or this at the next start. Nobody may have it open.

    Raises SyncFailed, OSError."""
    assert _life(snapshot) == _life(identity)
    data = encode_snapshot(snapshot)
    write_durably(disk, REPLACEMENT, msgspec.msgpack.encode(_Replacement(zlib.crc32(data), identity, data)))
    _finish_rewrite(disk)


def _finish_rewrite(disk: Disk) -> None:
    data = read_whole(disk, REPLACEMENT)
    if data is None:
        return
    name = disk.describe(REPLACEMENT)
    try:
        replacement = _replacement.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptData(f"{name}: {error}. Repeat the recovery or the restore") from None
    if zlib.crc32(replacement.snapshot) != replacement.crc:
        raise CorruptData(f"{name}: damaged (checksum). Repeat the recovery or the restore")
    snapshot = decode_snapshot(replacement.snapshot, name)
    addresses = tuple(sorted(member.address for member in snapshot.members if member.voter))
    write_durably(disk, SNAPSHOT, replacement.snapshot)
    node_ids = {member.address: member.node_id for member in snapshot.members if member.node_id}
    save_members(disk, MembersFile(addresses, snapshot.members, node_ids))
    entries = [snapshot.previous, snapshot.last]
    contents = Contents(entries, term=snapshot.last[2], commit=snapshot.index)
    create_journal(disk, replacement.identity.stamp, contents)._destroy()
    identities.save(disk, replacement.identity)
    disk.remove(REPLACEMENT)
    disk.remove(REPLACEMENT + ".new")
    disk.sync_names()
