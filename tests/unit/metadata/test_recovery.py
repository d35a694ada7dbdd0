"""What a restart makes of a directory, whatever a crash or a bad disk has left of it."""

import json
import random
import zlib
from collections.abc import Callable

import msgspec
import pytest

from tests.raft_directories import (
    CONFIG,
    A,
    B,
    C,
    D,
    close,
    compact,
    crashes,
    exchange,
    fill,
    members_of,
    open_directory,
    snapshot_at,
)
from tests.simulation.disk import PAGE_BYTES, SimDisk
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj import identity as identities
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.errors import CorruptData, Misconfigured
from vimraft.metadata.pysyncobj.identity import Identity, cluster_of, supersede
from vimraft.metadata.pysyncobj.journal import open_journal
from vimraft.metadata.pysyncobj.members import (
    MEMBERS,
    MEMBERSHIP_ENTRY,
    Change,
    Member,
    MembersFile,
    encode_change,
    fold,
    load_members,
    parse_change,
    save_members,
)
from vimraft.metadata.pysyncobj.recovery import Recovered, recover, rewrite
from vimraft.metadata.pysyncobj.snapshot import Snapshot, encode_snapshot, load_snapshot


def used(entries: int = 60) -> SimDisk:
    """A directory with a snapshot and a journal behind it, closed."""
    disk = SimDisk()
    found = open_directory(disk)
    fill(found, entries)
    compact(disk, found, entries // 2)
    fill(found, 5)
    close(found)
    return disk


def entries_of(disk: SimDisk) -> list[tuple[bytes, int, int]]:
    found = recover(disk, CONFIG)
    entries = list(found.journal[:])
    close(found)
    return entries


# --- first start ---------------------------------------------------------------------------------------


def test_a_first_start_makes_members_journal_and_identity() -> None:
    disk = SimDisk()
    found = recover(disk, CONFIG)
    assert found.members == members_of(A, B, C)
    assert found.initial_members == (A, B, C)
    assert found.snapshot is None
    assert found.identity.cluster == cluster_of([C, A, B])
    assert found.identity.generation == 1
    close(found)
    assert recover(disk, CONFIG).identity == found.identity
    assert disk.names() == ["identity.json", "journal", "journal.synced", "members.json"]


def test_a_first_start_that_is_interrupted_anywhere_is_done_again() -> None:
    for _, disk in crashes(lambda disk: recover(disk, CONFIG), SimDisk(), 1):
        identity = recover(disk, CONFIG).identity
        disk.crash(random.Random(1))
        found = recover(disk, CONFIG)
        assert found.identity == identity
        assert found.members == members_of(A, B, C)
        assert len(found.journal) == 0


def test_a_first_start_without_members_is_refused() -> None:
    with pytest.raises(Misconfigured, match="no members"):
        recover(SimDisk(), PySyncObjConfig(self_address=A, data_dir=CONFIG.data_dir))


def test_one_who_joins_learns_the_cluster_from_those_it_joins() -> None:
    disk = SimDisk()
    joining = PySyncObjConfig(self_address=D, members=(A, B), data_dir=CONFIG.data_dir)
    found = recover(disk, joining)
    assert found.identity.cluster == ""
    identities.adopt(disk, found.identity, "theirs", 3)
    close(found)
    again = recover(disk, joining).identity
    assert again == Identity(found.identity.node_id, "theirs", 3)


def test_a_snapshot_received_by_one_who_joins_tells_the_cluster_too() -> None:
    disk = SimDisk()
    close(recover(disk, PySyncObjConfig(self_address=D, members=(A, B), data_dir=CONFIG.data_dir)))
    received = Snapshot((Member(A, "a"),), (b"\0", 6, 2), (b"\0", 7, 2), State(index=7), "theirs", 2)
    disk.put("snapshot", encode_snapshot(received))
    found = recover(disk, CONFIG)
    assert (found.identity.cluster, found.identity.generation) == ("theirs", 2)
    assert found.members == {A: Member(A, "a")}


@pytest.mark.parametrize("name", ["identity.json", "members.json", "journal", "snapshot"])
def test_a_lost_file_stops_the_start(name: str) -> None:
    disk = used()
    disk.remove(name)
    with pytest.raises(CorruptData, match=f"{name}.*missing"):
        recover(disk, CONFIG)


def test_a_lost_watermark_is_made_again() -> None:
    disk = used()
    before = entries_of(disk)
    disk.remove("journal.synced")
    assert entries_of(disk) == before
    assert disk.exists("journal.synced")


def test_files_of_another_node_or_cluster_stop_the_start() -> None:
    disk, other = used(), used()
    mixed = disk.copy()
    mixed.put("journal", other.contents("journal") or b"")
    with pytest.raises(CorruptData, match="another node"):
        recover(mixed, CONFIG)
    mixed = disk.copy()
    found = recover(disk, CONFIG)
    assert found.snapshot is not None
    foreign = Snapshot((), (b"", 29, 1), (b"", 30, 1), State(), "another", 1)
    mixed.put("snapshot", encode_snapshot(foreign))
    with pytest.raises(CorruptData, match="mixed"):
        recover(mixed, CONFIG)


def test_an_older_copy_of_the_journal_stops_the_start() -> None:
    disk = used()
    older = disk.contents("journal")
    found = recover(disk, CONFIG)
    fill(found, 10)
    compact(disk, found, 20)
    close(found)
    disk.put("journal", older or b"")
    with pytest.raises(CorruptData, match="journal number"):
        recover(disk, CONFIG)


# --- crashes -------------------------------------------------------------------------------------------


def test_a_compaction_that_is_interrupted_anywhere_loses_nothing() -> None:
    start = SimDisk()
    found = open_directory(start)
    entries = fill(found, 40)
    close(found)

    def run(disk: SimDisk) -> None:
        again = recover(disk, CONFIG)
        compact(disk, again, 20)
        fill(again, 3)

    for at, disk in crashes(run, start, 2, cuts=12):
        for _ in range(3):
            found = recover(disk, CONFIG)
            first = found.journal[0][1]
            assert found.journal[: len(entries) - first + 1] == entries[first - 1 :], at
            assert (first == 20) == (found.snapshot is not None), at
            assert found.members[D] == Member(D, "node-d", voter=False)
            assert found.journal.getCurrentTerm() == 1
            assert found.journal.getRaftCommitIndex() >= 41
            close(found)
            disk.crash(random.Random(at))


@pytest.mark.parametrize("ahead", [True, False])
def test_a_received_snapshot_whose_taking_is_interrupted_is_taken_or_not(ahead: bool) -> None:
    start = SimDisk()
    found = open_directory(start)
    fill(found, 10)
    found.journal.setCurrentTerm(2, None)
    found.journal.setRaftCommitIndex(5)
    for index in range(12, 20):
        found.journal.add(b"never committed", index, 2)
    found.journal.setRaftCommitIndex(11)
    found.journal.sync()
    close(found)
    index = 50 if ahead else 15  # the second one ends where the journal has an entry of another term
    identity = found.identity
    received = Snapshot(
        (Member(A), Member(D, "d")),
        (b"\0p", index - 1, 3),
        (b"\0l", index, 3),
        State(index=index),
        identity.cluster,
        identity.generation,
    )
    data = encode_snapshot(received)

    def run(disk: SimDisk) -> None:
        again = recover(disk, CONFIG)
        receiver = exchange(disk, received)
        assert not receiver.setTransmissionData((data[:100], True, False))
        assert not receiver.setTransmissionData((data[100:], False, False))
        if receiver.setTransmissionData((b"", False, True)):
            _, last, previous, _ = receiver.deserialize()
            again.journal.clear()
            again.journal.add(*previous)
            again.journal.add(*last)
            again.journal.setCurrentTerm(3, None)
            again.journal.sync()

    taken = 0
    for at, disk in crashes(run, start, 3, cuts=6):
        for _ in range(3):
            found = recover(disk, CONFIG)
            assert found.journal.getCurrentTerm() in (2, 3), at
            if found.snapshot is None:
                assert [entry[1] for entry in found.journal[:]] == list(range(1, 20)), at
            else:
                taken += 1
                assert found.journal[:] == [received.previous, received.last], at
                assert found.journal.getRaftCommitIndex() == index
                assert found.members == {A: Member(A), D: Member(D, "d")}
            close(found)
            disk.crash(random.Random(at))
    assert taken


def test_a_snapshot_that_contradicts_what_is_committed_stops_the_start() -> None:
    disk = SimDisk()
    found = open_directory(disk)
    fill(found, 10)
    snapshot = snapshot_at(found, 8)
    other = Snapshot(
        snapshot.members,
        snapshot.previous,
        (b"\0", snapshot.index, 9),
        State(),
        snapshot.cluster,
        snapshot.generation,
    )
    close(found)
    disk.put("snapshot", encode_snapshot(other))
    with pytest.raises(CorruptData, match="both say it is committed"):
        recover(disk, CONFIG)


def test_an_older_snapshot_than_the_journal_stops_the_start() -> None:
    disk = used()
    snapshot = load_snapshot(disk)
    assert snapshot is not None
    older = Snapshot(
        snapshot.members, (b"", 3, 1), (b"", 4, 1), State(), snapshot.cluster, snapshot.generation
    )
    disk.put("snapshot", encode_snapshot(older))
    with pytest.raises(CorruptData, match="older"):
        recover(disk, CONFIG)


# --- a bad disk ----------------------------------------------------------------------------------------


def _flip(data: bytes, page: int) -> bytes:
    damaged = bytearray(data)
    position = min(len(data) - 1, page * PAGE_BYTES + random.Random(page).randrange(PAGE_BYTES))
    damaged[position] ^= 1 << page % 8
    return bytes(damaged)


def _zero(data: bytes, page: int) -> bytes:
    start, end = page * PAGE_BYTES, min(len(data), (page + 1) * PAGE_BYTES)
    return data[:start] + bytes(end - start) + data[end:]


def _cut(data: bytes, page: int) -> bytes:
    return data[: page * PAGE_BYTES]


@pytest.mark.parametrize("damage", [_flip, _zero, _cut])
def test_a_damaged_page_is_noticed_or_costs_nothing(damage: Callable[[bytes, int], bytes]) -> None:
    whole = SimDisk()
    found = open_directory(whole)
    fill(found, 40)
    compact(whole, found, 30)
    for _ in range(3):  # three batches, each of several pages
        fill(found, 60, size=50)
    entries = list(found.journal[:])
    state = found.journal.getCurrentTerm(), found.journal.getRaftCommitIndex()
    close(found)
    snapshot = load_snapshot(whole)
    noticed = 0
    for name in whole.names():
        data = whole.contents(name) or b""
        for page in range((len(data) - 1) // PAGE_BYTES + 1):
            disk = whole.copy()
            disk.put(name, damage(data, page))
            try:
                found = recover(disk, CONFIG)
            except CorruptData as error:
                noticed += 1
                problem = str(error)
                complete = name in problem and ("If other managers run" in problem or "Start the" in problem)
                if not complete:
                    raise AssertionError(f"{name}, page {page}: {problem}") from error
                continue
            assert (name, page) in [("journal.synced", 0)]
            assert list(found.journal[:]) == entries
            assert (found.journal.getCurrentTerm(), found.journal.getRaftCommitIndex()) == state
            assert found.snapshot == snapshot
            close(found)
    assert noticed > 10


@pytest.mark.parametrize("name", ["identity.json", "members.json"])
def test_every_flipped_bit_in_the_small_files_is_noticed_or_harmless(name: str) -> None:
    whole = used()
    before = recover(whole, CONFIG)
    members = load_members(whole)
    close(before)
    data = whole.contents(name) or b""
    noticed = 0
    for position in range(len(data) * 8):
        disk = whole.copy()
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        disk.put(name, bytes(damaged))
        try:
            assert identities.load(disk) == before.identity
            assert load_members(disk) == members
        except CorruptData:
            noticed += 1
    assert noticed > len(data) * 4


def test_without_its_watermark_a_torn_end_is_refused_and_a_later_sync_betrays_damage() -> None:
    disk = SimDisk()
    found = open_directory(disk)
    fill(found, 5)
    middle = found.journal.file_bytes
    fill(found, 5)
    end = found.journal.file_bytes
    found.journal.add(b"\0not synced", found.journal[-1][1] + 1, 1)
    close(found)
    whole = disk.contents("journal") or b""
    assert len(whole) > end
    torn = whole[:-3]
    lost, stale = disk.copy(), disk.copy()
    for one in (lost, stale):
        one.put("journal", torn)
    # The watermark as it was made, which is what a power cut may leave.
    fresh = SimDisk()
    close(recover(fresh, CONFIG))
    stale.put("journal.synced", fresh.contents("journal.synced") or b"")
    lost.remove("journal.synced")
    with pytest.raises(CorruptData, match="watermark"):
        recover(lost, CONFIG)
    assert recover(stale, CONFIG).journal[-1][1] == 11
    damaged = bytearray(whole)
    damaged[middle - 20] ^= 1
    stale.put("journal", bytes(damaged))
    stale.put("journal.synced", fresh.contents("journal.synced") or b"")
    with pytest.raises(CorruptData, match="damaged at byte"):
        recover(stale, CONFIG)


# --- a directory made anew -----------------------------------------------------------------------------


def test_a_rewrite_that_is_interrupted_anywhere_leaves_the_old_or_the_new() -> None:
    start = used()
    before = recover(start, CONFIG)
    close(before)
    identity = Identity(before.identity.node_id, before.identity.cluster, 2)
    snapshot = Snapshot(
        (Member(A, identity.node_id),), (b"\0", 89, 4), (b"\0", 90, 4), State(index=90), identity.cluster, 2
    )
    seen = set()
    for at, disk in crashes(lambda disk: rewrite(disk, snapshot, identity), start, 4):
        for _ in range(3):
            found = recover(disk, CONFIG)
            seen.add(found.identity.generation)
            if found.identity.generation == 1:
                assert _same(found, before), at
            else:
                assert found.snapshot == snapshot
                assert found.members == {A: Member(A, identity.node_id)}
                assert found.node_ids == {A: identity.node_id}
                assert found.journal[:] == [snapshot.previous, snapshot.last]
                assert (found.journal.getCurrentTerm(), found.journal.getRaftCommitIndex()) == (4, 90)
                assert not disk.exists("replacement")
            close(found)
            disk.crash(random.Random(at))
    assert seen == {1, 2}


def _same(found: Recovered, before: Recovered) -> bool:
    return found.snapshot == before.snapshot and found.members == before.members


def test_an_empty_directory_can_be_made_from_a_snapshot() -> None:
    disk = SimDisk()
    identity = identities.make([A])
    snapshot = Snapshot((Member(A),), (b"\0", 4, 1), (b"\0", 5, 1), State(), identity.cluster, 1)
    rewrite(disk, snapshot, identity)
    found = recover(disk, CONFIG)
    assert found.identity == identity
    assert open_journal(disk, identity.stamp)[:] == [snapshot.previous, snapshot.last]


# --- members -------------------------------------------------------------------------------------------


def test_membership_entries_are_folded_with_their_node_ids() -> None:
    changes = [
        encode_change("observe", D, "d"),
        b"\0a command",
        encode_change("rem", B),
        encode_change("add", D),
    ]
    assert fold(members_of(A, B), changes) == {A: Member(A), D: Member(D, "d", voter=True)}
    assert parse_change(encode_change("add", A, "a")) == Change("add", A, "a")
    assert parse_change(b"\0") is None
    for bad in (b"\x02", b"\x02\x93\xa3fly\xa1a\xa0", b"\x02\x80\x02cos\nsystem\n.", b"\x02\x80\x02N."):
        with pytest.raises(ValueError, match="membership"):
            parse_change(bad)


def test_the_member_list_keeps_the_node_ids_and_reads_the_first_form() -> None:
    disk = SimDisk()
    assert load_members(disk) is None
    content = MembersFile((A, B), (Member(A, "a"), Member(D, "d", voter=False)), {A: "a"})
    save_members(disk, content)
    assert load_members(disk) == content
    disk.put("members.json", b'{"initial": ["h:1"], "latest": ["h:1", "h:2"]}')
    assert load_members(disk) == MembersFile(("h:1",), (Member("h:1"), Member("h:2")))
    for bad in (b"{", b"\xff", b'{"format": 9, "initial": [], "latest": []}'):
        disk.put("members.json", bad)
        with pytest.raises(CorruptData, match="not a member list"):
            load_members(disk)


def test_fields_of_a_later_release_are_ignored_and_a_flipped_bit_is_not() -> None:
    disk = SimDisk()
    content = MembersFile((A, B), (Member(A, "a"),), {A: "a"}, contacts=(C,), met=(B,))
    save_members(disk, content)
    fields = json.loads(disk.contents(MEMBERS) or b"")
    del fields["check"]
    fields["later"] = {"known": [1, 2]}
    data = msgspec.json.encode(fields, order="sorted")
    disk.put(MEMBERS, msgspec.json.encode({**fields, "check": zlib.crc32(data)}))
    assert load_members(disk) == content
    disk.put(MEMBERS, (disk.contents(MEMBERS) or b"").replace(B.encode(), b"127.0.0.1:9"))
    with pytest.raises(CorruptData, match="checksum"):
        load_members(disk)
    assert parse_change(encode_change("add", A, "a")) == Change("add", A, "a")
    later = MEMBERSHIP_ENTRY + msgspec.msgpack.encode(["add", A, "a", "later"])
    assert parse_change(later) == Change("add", A, "a")


def test_a_node_that_joins_has_contacts_and_no_members_and_the_cluster_that_it_was_told() -> None:
    disk = SimDisk()
    config = PySyncObjConfig(
        self_address=D, members=(A, B), data_dir=CONFIG.data_dir, cluster="theirs", generation=2, birth="x"
    )
    found = recover(disk, config)
    assert (found.initial_members, found.members, found.contacts) == ((), {}, (A, B))
    assert (found.identity.cluster, found.identity.generation, found.identity.birth) == ("theirs", 2, "x")
    close(found)
    again = recover(disk, CONFIG)  # whatever the configuration says now
    assert (again.identity, again.contacts) == (found.identity, found.contacts)
    close(again)


def test_a_generation_that_is_over_stays_over() -> None:
    disk = SimDisk()
    found = recover(disk, CONFIG)
    close(found)
    supersede(disk, found.identity, 3)
    again = recover(disk, CONFIG)
    assert again.identity.superseded_by == 3
    assert again.identity.node_id == found.identity.node_id
    close(again)
