"""The Raft layer under simulated faults: a short budget of seeds; the long run is a command.

A failing seed is replayed by `python -m tests.simulation.raft --replay SEED`, with --stock or --mutate NAME
as the test has it.
"""

import os
import subprocess
import sys

import msgspec
import pytest
from pysyncobj.node import TCPNode

from tests.simulation.hardened import Hardened
from tests.simulation.raft import main
from tests.simulation.settings import Settings
from tests.simulation.simulation import Report, Run, run_seed
from tests.simulation.stock import Stock
from tests.simulation.world import World

SEEDS = 150
CHUNK = 30


def kinds(report: Report) -> set[str]:
    return {found.kind for found in report.violations}


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_the_hardened_node_keeps_every_promise(first: int) -> None:
    for seed in range(first, first + CHUNK):
        report, _ = run_seed(seed, Hardened())
        assert not report.violations, f"seed {seed}: {report.violations}"


@pytest.mark.parametrize(
    ("fault", "seed", "kind"),
    [
        ("compaction-kill", 2, "acknowledged write lost"),
        ("kill-all", 13, "leader completeness"),
        ("lag-and-kill", 4, "committed entry replaced"),
        ("power-all", 2, "leader completeness"),
        ("break", 2, "applied twice"),
    ],
)
def test_stock_pysyncobj_fails_where_the_hardened_node_does_not(fault: str, seed: int, kind: str) -> None:
    assert kind in kinds(run_seed(seed, Stock((fault,)))[0])
    assert kinds(run_seed(seed, Hardened(only=(fault,)))[0]) == set()


@pytest.mark.parametrize(
    ("mutation", "seed"),
    [
        ("no-sync-before-ack", 1),
        ("no-term-sync", 29),
        ("commit-unsynced", 3),
        ("no-log-matching", 6),
        ("matches-any-term", 1),
        ("votes-by-message", 11),
        ("vote-for-the-behind", 2),
        ("torn-tail-accepts-anything", 1),
        ("resend-applies-twice", 1),
        ("snapshot-unsynced", 1),
        ("trim-in-place", 18),
        ("wiped-disk-welcome", 1),
        ("many-changes-at-once", 47),
        ("old-snapshots", 72),
        ("answers-at-once", 3),
    ],
)
def test_a_node_without_one_of_its_rules_is_caught(mutation: str, seed: int) -> None:
    """The seeds are those that the command found first; a change of the node or the simulation moves them."""
    assert run_seed(seed, Hardened(mutation))[0].violations


def test_the_same_seed_is_the_same_run() -> None:
    first, again = run_seed(7, Hardened())[0], run_seed(7, Hardened())[0]
    assert first.digest == again.digest
    assert first.acknowledged > 0


@pytest.mark.parametrize("options", [[], ["--stock"]])
def test_a_seed_is_the_same_run_in_every_process(options: list[str]) -> None:
    """String hashes, and with them the order of sets, differ from process to process."""
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation.raft", "--replay", "11", *options],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=240,  # it has what other tests leave over of the processors
            check=False,
        )
        digests.update(line for line in done.stdout.splitlines() if line.startswith("digest "))
    assert len(digests) == 1


class Undisturbed(Hardened):
    """No faults but those of the scenario."""

    def settings(self, world: World) -> Settings:
        chosen = super().settings(world)
        self._settings = msgspec.structs.replace(
            chosen, machines=3, faults=(), loss=0.0, duplicate=0.0, delay_s=0.001, jitter_s=0.0, sync_s=0.0
        )
        return self._settings


class OneCutOff(Undisturbed):
    """A follower hears nobody for many election timeouts."""

    def prepare(self, run: Run) -> None:
        super().prepare(run)
        self.terms: list[int] = []
        run.world.at(3.0, self._cut, run)
        run.world.at(7.0, self._heal, run)

    def _cut(self, run: Run) -> None:
        leader = run.faults.leader()
        assert leader is not None
        cut_off = next(machine for machine in run.machines if machine is not leader)
        self.terms.append(leader.node.raftCurrentTerm)
        run.network.separate([cut_off.address], [m.address for m in run.machines if m is not cut_off])

    def _heal(self, run: Run) -> None:
        run.network.heal_all()
        run.world.after(0.9, lambda: self.terms.append(max(m.node.raftCurrentTerm for m in run.machines)))


def term_growth(mutation: str | None) -> int:
    cluster = OneCutOff(mutation)
    report, _ = run_seed(1, cluster)
    assert not report.violations
    return cluster.terms[1] - cluster.terms[0]


def test_who_was_cut_off_deposes_nobody_when_it_returns() -> None:
    assert term_growth(None) == 0
    assert term_growth("no-pre-vote") > 0


class LeaderFromLater(Undisturbed):
    """A voter is down while another one joins, is promoted, and becomes the leader."""

    def prepare(self, run: Run) -> None:
        super().prepare(run)
        world = run.world
        world.at(3.0, self._join, run)
        world.at(5.0, self._operator._ask, "add", "n4:1")
        world.at(7.0, self._hand_over, run)
        world.at(7.8, self._come_back)

    def _come_back(self) -> None:
        self.behind.boot()

    def _join(self, run: Run) -> None:
        self.behind = next(machine for machine in run.machines if not machine.node._isLeader())
        self.behind.kill()
        self._operator._join([machine.address for machine in run.machines])

    def _hand_over(self, run: Run) -> None:
        leader = run.faults.leader()
        assert leader is not None
        with leader.running():
            leader.node.transferLeadership(TCPNode("n4:1"))


def test_a_voter_that_slept_catches_up_from_a_leader_that_it_has_never_heard_of() -> None:
    report, world = run_seed(1, LeaderFromLater())
    assert any("n4 " in line and " leads " in line for line in world.lines())
    assert not report.violations


def test_the_command_names_the_failing_seeds_and_exits_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2:2", "--stock", "--faults", "break"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("1 seeds, ")
    assert "failing seeds: 2" in lines


def test_the_command_ends_with_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3:4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 seeds, 0 violations"


def test_a_replay_prints_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--replay", "3"]) == 0
    printed = capsys.readouterr().out
    assert " leads " in printed
    assert " written " in printed
