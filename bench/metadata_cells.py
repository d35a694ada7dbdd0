"""Parts of `bench/metadata`: commits, commits during compaction, death of the leader, restart of all.

May live here: what is started, in which order the systems take turns, what is judged. Three voters on
loopback each, all files on the same file system, fsync on. Only the cluster that is measured runs.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import machine
from bench.etcd import EtcdCluster, etcd_cluster
from bench.put_clients import (
    EtcdPuts,
    PutClient,
    Run,
    VoterPuts,
    first_success_s,
    one_put,
    pipelined,
    sample_of,
    sequential,
)
from bench.results import (
    Result,
    Row,
    Sample,
    Target,
    Verdict,
    judge,
    judge_absolute,
    latencies,
    median,
    percentile,
    rows_of,
)
from tests.raft_cases import NodeProcess, RaftCluster, raft_cluster, real
from vimraft.core import levels

PROGRAM = Path(__file__).parent / "voter.py"
OURS, OURS_HERE, THEIRS = "vimraft", "vimraft, asked in its process", "etcd"
ROUND_WAIT_S = 3.0
P50_RATIO = 1.5
MIN_RATE = 5_000
TAIL_RATIO = 5.0
FAILOVER_P50_S, FAILOVER_P95_S = 1.0, 1.5
RESTART_LIMIT_S = 10.0
COMPACTION_ENTRIES = 20
TABLE_REALS = 6_000
"""So that a snapshot takes long enough to be seen."""
MIN_COMPACTIONS = 10


class Ground:
    """Where and how: options, the work directory, a loop for the voters' control lines."""

    def __init__(self, options: argparse.Namespace, directory: Path, say: Callable[[str], None]) -> None:
        self.options = options
        self.say = say
        self._directory = directory
        self._numbers = itertools.count(1)

    def path(self) -> Path:
        path = self._directory / str(next(self._numbers))
        path.mkdir()
        return path

    def quiet(self, what: str, max_wait_s: float = machine.MAX_WAIT_S) -> str:
        self.say(f"{what}: waiting for idle processors")
        busy = machine.wait_quiet(max_wait_s=max_wait_s)
        self.say(what)
        return "" if busy < machine.QUIET_FRACTION else f"machine {busy:.0%} busy with other work"

    def etcd(self) -> "contextlib.AbstractContextManager[EtcdCluster]":
        return etcd_cluster(self.options.etcd, self.path() / "etcd")


class Voters:
    """Vimraft's voters for a caller without a loop of its own."""

    def __init__(self, cluster: RaftCluster, runner: asyncio.Runner) -> None:
        self.cluster = cluster
        self._run = runner.run
        self._ports: dict[str, str] = {}

    def serve(self, node: NodeProcess) -> str:
        """The address for `VoterPuts`."""
        if node.address not in self._ports:
            port = self._run(node.call("serve"))["port"]
            self._ports[node.address] = f"127.0.0.1:{port}"
        return self._ports[node.address]

    def leader(self) -> NodeProcess:
        running = [node for node in self.cluster.nodes if node._process is not None]
        return self._run(self.cluster.leader(running, timeout_s=30))

    def call(self, node: NodeProcess, op: str, **given: Any) -> dict[str, Any]:
        return self._run(node.call(op, patience_s=600, **given))

    def kill(self, *nodes: NodeProcess) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(node.kill() for node in nodes))

        self._run(all_of_them())
        for node in nodes:
            self._ports.pop(node.address, None)

    def start(self, *nodes: NodeProcess) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(node.start() for node in nodes))

        self._run(all_of_them())

    def wait_equal(self) -> None:
        self._run(self.cluster.same_digest(self.cluster.nodes, timeout_s=60))

    def fill_reals(self, count: int) -> None:
        async def fill() -> None:
            leader = await self.cluster.leader()
            for start in range(0, count, 200):
                await asyncio.gather(*(leader.propose(real(start + i)) for i in range(200)))

        self._run(fill())


@contextlib.contextmanager
def voters(ground: Ground, level: int = levels.LATEST, **options: int) -> Iterator[Voters]:
    with asyncio.Runner() as runner:
        cluster_context = raft_cluster(ground.path(), start=False, **options)
        cluster = runner.run(cluster_context.__aenter__())
        try:
            for node in cluster.nodes:
                node.program = PROGRAM
            runner.run(cluster.start())
            runner.run(cluster.form(level))
            yield Voters(cluster, runner)
        finally:
            runner.run(cluster_context.__aexit__(None, None, None))


def _note(runs: list[Run]) -> str:
    return f"client {statistics.median(run.client_us for run in runs):.0f} µs of processor time a put"


# --- commits ----------------------------------------------------------------------------------------------


def commits(ground: Ground) -> Result:
    """Sequential and pipelined puts at the leader; the systems take turns in each round."""
    options = ground.options
    runs: dict[str, list[Run]] = {OURS: [], THEIRS: []}
    rates: dict[str, list[Sample]] = {OURS: [], OURS_HERE: [], THEIRS: []}
    here: list[Sample] = []
    with voters(ground) as ours, ground.etcd() as theirs:
        note = ground.quiet("commits")
        for number in range(options.repeat):
            ground.quiet(f"round {number + 1} of {options.repeat}", ROUND_WAIT_S)
            leader = ours.leader()
            clients: dict[str, tuple[type[PutClient], str]] = {
                OURS: (VoterPuts, ours.serve(leader)),
                THEIRS: (EtcdPuts, theirs.leader().client),
            }
            for name in list(clients) if number % 2 == 0 else reversed(clients):
                make, address = clients[name]
                with make(address) as client:
                    runs[name].append(sequential(client, options.seconds))
                    rates[name].append(pipelined(client, options.outstanding, seconds=options.seconds))
            here.append(latencies(ours.call(leader, "here", seconds=options.seconds)["took_s"]))
            asked = {"seconds": options.seconds, "outstanding": options.outstanding}
            rate = ours.call(leader, "here_pipelined", **asked)["rate"]
            rates[OURS_HERE].append(Sample(rate, 0.0, 0.0, 0.0))
    return _judge_commits(options.outstanding, runs, rates, here, note)


def _judge_commits(
    outstanding: int,
    runs: dict[str, list[Run]],
    rates: dict[str, list[Sample]],
    here: list[Sample],
    note: str,
) -> Result:
    samples = {name: [sample_of(run) for run in taken] for name, taken in runs.items()}
    what = "one put after the other"
    rows = [
        Row("sequential", what, name, median(taken), "; ".join(filter(None, [_note(runs[name]), note])))
        for name, taken in samples.items()
    ]
    rows.append(Row("sequential", what, OURS_HERE, median(here), note))
    rows += rows_of("pipelined", f"{outstanding} puts outstanding", rates, note)
    p50 = Target("p50_us", ceiling=P50_RATIO)
    rate = Target("iops", floor=1.0)
    verdicts = [
        judge(f"sequential, {OURS}", samples[OURS], samples[THEIRS], THEIRS, p50),
        judge(f"sequential, {OURS_HERE}", here, samples[THEIRS], THEIRS, p50),
    ]
    for name in (OURS, OURS_HERE):
        verdicts.append(judge(f"pipelined, {name}", rates[name], rates[THEIRS], THEIRS, rate))
        value = median(rates[name]).iops
        limit = f"≥ {MIN_RATE:,}/s"
        verdicts.append(Verdict(f"pipelined, {name}", f"{value:,.0f}/s", target=limit, met=value >= MIN_RATE))
    return Result(tuple(rows), tuple(verdicts))


# --- compaction -------------------------------------------------------------------------------------------


class _CompactionWatch:
    """What is to be seen from outside in the directory of a node: a snapshot being written, or a new one."""

    def __init__(self, node: NodeProcess) -> None:
        self._writing = str(node.raft_dir / "snapshot.new")
        self._snapshot = str(node.raft_dir / "snapshot")
        self.written = 0
        self._last = self._inode()

    def _inode(self) -> int:
        try:
            return os.stat(self._snapshot).st_ino
        except OSError:
            return 0

    def under_way(self) -> bool:
        """Being written now, or one was finished since the last call."""
        inode = self._inode()
        finished = inode != self._last
        self.written += finished
        self._last = inode
        return finished or os.path.exists(self._writing)


def compaction(ground: Ground) -> Result:
    """Sequential puts at a leader that compacts over and over: big tables, a short log. Then the same with a
    long log: what the tail is without compaction."""
    seconds = ground.options.seconds * ground.options.repeat
    result = _while_compacting(ground, seconds)
    with voters(ground) as ours:
        ours.fill_reals(TABLE_REALS)
        with VoterPuts(ours.serve(ours.leader())) as client:
            note = ground.quiet("commits without compaction")
            sequential(client, 0.5)
            usual = sample_of(sequential(client, seconds))
    row = Row("compaction", "the same without compaction", "vimraft", usual, note)
    return Result((*result.rows, row), result.verdicts)


def _while_compacting(ground: Ground, seconds: float) -> Result:
    with voters(ground, compaction_entries=COMPACTION_ENTRIES, journal_slack_bytes=4 << 20) as ours:
        ground.say(f"filling tables with {TABLE_REALS} real volumes")
        ours.fill_reals(TABLE_REALS)
        leader = ours.leader()
        watch = _CompactionWatch(leader)
        beside: list[float] = []
        all_of_them: list[float] = []
        with VoterPuts(ours.serve(leader)) as client:
            note = ground.quiet("commits during compaction")
            sequential(client, 0.5)
            watch.under_way()
            watch.written = 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                before = watch.under_way()
                took = one_put(client)
                all_of_them.append(took)
                if watch.under_way() or before:
                    beside.append(took)
        state_bytes = ours.call(leader, "tables")["state_bytes"]
    return _judge_compaction(all_of_them, beside, watch.written, state_bytes, note)


def _judge_compaction(
    took_s: list[float], beside_s: list[float], written: int, state_bytes: int, note: str
) -> Result:
    if written < MIN_COMPACTIONS or not beside_s:
        raise RuntimeError(f"{written} compactions in the window: nothing to judge")
    everything, beside = latencies(took_s), latencies(beside_s)
    share = len(beside_s) / len(took_s)
    what = f"{written} snapshots of {state_bytes / 1e6:.1f} MB; {share:.0%} of the puts met one"
    rows = (
        Row(
            "compaction",
            "all puts of the window",
            "vimraft",
            everything,
            "; ".join(filter(None, [what, note])),
        ),
        Row("compaction", "puts that met a compaction", "vimraft", beside, note),
    )
    ratio = beside.p99_us / everything.p50_us
    verdict = Verdict(
        "p99 during compaction",
        f"{beside.p99_us:,.0f} µs",
        f"{everything.p50_us:,.0f} µs p50 of the window",
        f"{ratio:.2f}",
        f"≤ {TAIL_RATIO:g} ×",
        ratio <= TAIL_RATIO,
    )
    return Result(rows, (verdict,))


# --- leader kill --------------------------------------------------------------------------------------------


def leader_kill(ground: Ground) -> Result:
    """From kill -9 of the leader to the first new commit, asked of a survivor; then all three run again."""
    trials = ground.options.trials
    rng = random.Random(1)
    ours_s, theirs_s = [], []
    with voters(ground) as ours, ground.etcd() as theirs:
        for number in range(trials):
            ground.quiet(f"trial {number + 1} of {trials}", ROUND_WAIT_S)
            ours_s.append(_kill_our_leader(ours, rng))
            theirs_s.append(_kill_their_leader(theirs, rng))
    rows = tuple(
        Row("leader-kill", f"{trials} kills of the leader, first new commit", name, latencies(taken))
        for name, taken in (("vimraft", ours_s), ("etcd", theirs_s))
    )
    p50, p95 = percentile(ours_s, 50), percentile(ours_s, 95)
    theirs_p50, theirs_p95 = percentile(theirs_s, 50), percentile(theirs_s, 95)
    return Result(
        rows,
        (
            judge_absolute("leader-kill", "p50", p50, FAILOVER_P50_S, "s")._replace(
                peer=f"{theirs_p50:.2f} s etcd, its defaults", ratio=f"{p50 / theirs_p50:.2f}"
            ),
            judge_absolute("leader-kill", "p95", p95, FAILOVER_P95_S, "s")._replace(
                peer=f"{theirs_p95:.2f} s etcd, its defaults", ratio=f"{p95 / theirs_p95:.2f}"
            ),
        ),
    )


def _kill_our_leader(ours: Voters, rng: random.Random) -> float:
    leader = ours.leader()
    survivor = rng.choice([node for node in ours.cluster.nodes if node is not leader])
    address = ours.serve(survivor)
    time.sleep(rng.uniform(0, 0.2))  # anywhere between two heartbeats
    began = time.monotonic()
    ours.kill(leader)
    first_success_s(VoterPuts, address)
    took_s = time.monotonic() - began
    ours.start(leader)
    ours.wait_equal()
    return took_s


def _kill_their_leader(theirs: EtcdCluster, rng: random.Random) -> float:
    leader = theirs.leader()
    survivor = rng.choice([member for member in theirs.members if member is not leader])
    time.sleep(rng.uniform(0, 0.2))
    began = time.monotonic()
    leader.kill()
    first_success_s(EtcdPuts, survivor.client)
    took_s = time.monotonic() - began
    leader.start()
    theirs.wait_committing()
    return took_s


# --- restart ----------------------------------------------------------------------------------------------


def restart(ground: Ground) -> Result:
    """kill -9 of all three, start of all three, until the first commit; starting Python included."""
    entries = ground.options.entries
    ours_s, found = _restart_ours(ground, entries)
    theirs_s = _restart_theirs(ground, entries)
    rows = (
        Row("restart", f"{found:,} log entries, all killed", "vimraft", latencies([ours_s])),
        Row("restart", f"{entries:,} log entries, all killed", "etcd", latencies([theirs_s])),
    )
    verdict = judge_absolute("restart", "first commit", ours_s, RESTART_LIMIT_S, "s")
    return Result(rows, (verdict._replace(peer=f"{theirs_s:.2f} s etcd"),))


def _restart_ours(ground: Ground, entries: int) -> tuple[float, int]:
    # At the first level each command is an entry of its own.
    with voters(ground, levels.FIRST, compaction_entries=10 * entries) as ours:
        ground.say(f"vimraft: {entries:,} entries")
        with VoterPuts(ours.serve(ours.leader())) as client:
            pipelined(client, ground.options.outstanding, count=entries)
        ours.wait_equal()
        nodes = ours.cluster.nodes
        ours.kill(*nodes)
        ground.quiet("restart of vimraft")
        began = time.monotonic()
        ours.start(*nodes)
        first_success_s(VoterPuts, ours.serve(nodes[0]))
        took_s = time.monotonic() - began
        return took_s, ours.call(nodes[0], "status")["log_entries"]


def _restart_theirs(ground: Ground, entries: int) -> float:
    with ground.etcd() as theirs:
        ground.say(f"etcd: {entries:,} entries")
        with EtcdPuts(theirs.leader().client) as client:
            pipelined(client, ground.options.outstanding, count=entries)
        theirs.kill()
        ground.quiet("restart of etcd")
        began = time.monotonic()
        theirs.start()
        first_success_s(EtcdPuts, theirs.members[0].client)
        return time.monotonic() - began
