"""Audit's test 4: every 4 KiB page of every file of one node is flipped, zeroed or cut off.

The node refuses to start with words, or goes on with all that it had; never with less. First each page of a
directory in memory, by the product's own recovery; then some, by chance, of a node in a running cluster.
"""

import asyncio
import random
from pathlib import Path

import pytest

from tests.fault.directories import Directory, View, filled
from tests.fault.load import Load
from tests.raft_cases import CallFailed, NodeProcess, raft_cluster, storage, until
from tests.simulation.disk import SimDisk
from vimraft.metadata.pysyncobj import CorruptData

PAGE_BYTES = 4096
KINDS = ("flip", "zero", "cut off", "older")
FILES = ("journal", "snapshot", "members.json", "identity.json", "journal.synced")
REAL_DAMAGES = 3


def damaged(data: bytes, page: int, kind: str, rng: random.Random, older: bytes = b"") -> bytes:
    start, end = page * PAGE_BYTES, min(len(data), (page + 1) * PAGE_BYTES)
    if kind == "cut off":
        return data[: start + rng.randrange(end - start)]
    if kind == "older":
        return data[:start] + older[start:end].ljust(end - start, b"\0") + data[end:]
    changed = bytearray(data)
    if kind == "zero":
        changed[start:end] = bytes(end - start)
    else:
        changed[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _pages(data: bytes) -> range:
    return range(-(-len(data) // PAGE_BYTES))


def _with(disk: SimDisk, name: str, data: bytes | None) -> SimDisk:
    other = disk.copy()
    if data is None:
        other.remove(name)
        other.sync_names()
    else:
        other.put(name, data)
    return other


def _restart(disk: SimDisk) -> View | CorruptData:
    try:
        directory = Directory(disk)
    except CorruptData as refusal:
        return refusal
    found = directory.view()
    directory.close()
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_page_is_refused_with_words_or_costs_nothing(name: str) -> None:
    disk = filled(1)
    good = _restart(disk.copy())
    assert isinstance(good, View)
    rng = random.Random(name)
    whole = disk.contents(name)
    assert whole
    older = filled(2).contents(name) or b""
    assert name not in ("journal", "snapshot") or len(_pages(whole)) > 3
    refused = 0
    for page in _pages(whole):
        for kind in KINDS:
            for _ in range(8 if kind in ("flip", "cut off") else 1):
                data = damaged(whole, page, kind, rng, older)
                found = _restart(_with(disk, name, data))
                if isinstance(found, CorruptData):
                    refused += 1
                    words = str(found)
                    assert words.startswith(FILES), words
                    assert len(words.split()) > 8, words
                else:
                    assert found == good, (name, page, kind)
    assert refused or name == "journal.synced"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_refused_with_words_or_costs_nothing(name: str) -> None:
    disk = filled(1)
    good = _restart(disk.copy())
    found = _restart(_with(disk, name, None))
    if isinstance(found, CorruptData):
        assert str(found).startswith(FILES)
    else:
        assert found == good


async def _starts(node: NodeProcess) -> bool:
    """False: it refused, with words."""
    try:
        await node.start()
    except CallFailed as refusal:
        assert refusal.kind == "CorruptData"  # noqa: PT017
        assert str(node.raft_dir) in str(refusal)  # noqa: PT017
        return False
    return True


@pytest.mark.cluster
async def test_a_node_with_a_damaged_page_never_leads_empty(tmp_path: Path) -> None:
    """Each time the two others stop as well, so that the damaged node is needed for a majority."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with raft_cluster(tmp_path, compaction_entries=100) as cluster:
        load = Load(cluster)
        load.start(12, cluster.nodes)
        await until(lambda: len(load.acknowledged) >= 250, 60, "writes")
        await load.stop()
        await cluster.same_digest(cluster.nodes)
        for number in range(REAL_DAMAGES):
            victim, helper, other = rng.sample(cluster.nodes, 3)
            await asyncio.gather(*(node.kill() for node in cluster.nodes))
            name = rng.choice(FILES)
            path = victim.raft_dir / name
            whole = path.read_bytes()
            kind = rng.choice(("flip", "zero", "cut off"))
            path.write_bytes(damaged(whole, rng.choice(_pages(whole)), kind, rng))
            kept = {file.name: file.read_bytes() for file in victim.raft_dir.iterdir() if file.is_file()}
            started, _ = await asyncio.gather(_starts(victim), helper.start())
            if started:
                await victim.propose(storage(f"after-{number}"), deadline_ms=20_000)
            else:
                await victim.kill()
                for file, data in kept.items():  # it has changed nothing; then the operator mends it
                    assert file == "lock" or (victim.raft_dir / file).read_bytes() == data
                path.write_bytes(whole)
                await victim.start()
            await other.start()
            found = await load.check(cluster.nodes)
            assert found.good, (found, name, kind)
