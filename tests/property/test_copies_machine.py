"""Random commands about copies at level 3, most of them for tables as they are, some for older ones.

After every command: the invariants hold, and those of a step; a refusal changed nothing; a retry does
nothing; looking back gives the tables before; a second manager, restored from a snapshot now and then, has
the same tables; nothing is applied that was made for another epoch, owner or boot; nobody takes over from a
sole holder or from an owner that renewed its lease; no copy stays in sync over a reboot of its stores but a
last one that says so; and no epoch comes twice under a name (INV-2 … INV-9). That each of these can fail is
shown too.
"""

import hashlib
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from tests.copies_cases import REMEMBERED, level_three
from tests.core_cases import SITES, UNIT
from tests.property.test_core_determinism import replayed
from vimraft.core import (
    apply_copies,
    apply_moves,
    apply_takeover,
    apply_trash,
    codec,
    copies,
    history,
    space,
)
from vimraft.core.apply import apply, plan
from vimraft.core.commands import (
    SINCE_COPIES,
    AbortMove,
    AddCopy,
    Applied,
    BeginMove,
    BeginResync,
    BuildVolume,
    Command,
    ConfirmRelease,
    DeleteVolume,
    ForceLost,
    GrowVolume,
    LeaseStamp,
    LoseUnflushed,
    MoveOwner,
    MoveSegments,
    PauseCopy,
    Promote,
    PurgeVolume,
    Rejected,
    Rejoin,
    RemoveCopy,
    RenewLease,
    ReopenVolumes,
    Request,
    RestoreVolume,
    Retire,
    SetHandingOver,
    SetReadOnly,
    SetReadPolicy,
    SetRealVolumeState,
    TakeOver,
    TrashVolume,
)
from vimraft.core.history import OutOfReach, tables_at
from vimraft.core.invariants import check, check_step
from vimraft.core.rebirth import reborn
from vimraft.core.tables import Replica, Segment, State, Volume

COMMANDS = 400
MANAGERS = tuple(f"m-{site}" for site in SITES)
NAMES = ("v", "w", "x")
RECORDS = ("", "r1", "r1", "r2")


def at_of(rng: random.Random, volume: Volume) -> tuple[str, int, str]:
    """Now and then of an epoch or an owner that is none any more."""
    odd = rng.randrange(12)
    epoch = volume.epoch + (rng.choice((-1, 1)) if odd == 0 else 0)
    return volume.name, epoch, rng.choice(MANAGERS) if odd == 1 else volume.owner


def boots_of(rng: random.Random, state: State) -> tuple[tuple[str, str], ...]:
    boots = dict(state.boots)
    if rng.random() < 0.1:
        boots[rng.choice(MANAGERS)] = "none"
    return tuple(sorted(boots.items()))


def about_a_volume(rng: random.Random, state: State, volume: Volume) -> Command:
    at = at_of(rng, volume)
    copy = rng.choice([*volume.replicas, *volume.replicas, volume.replicas[0]]).local_name
    lease = state.leases[volume.owner]
    stamp = LeaseStamp(lease.incarnation, lease.counter - (rng.random() < 0.2))
    other = rng.choice(MANAGERS)
    moving = next((r for r in volume.replicas if r.moving), None)
    syncing = next((r.local_name for r in volume.replicas if r.state == "syncing"), copy)
    stale = next((r.local_name for r in volume.replicas if r.state == "stale"), copy)
    on = rng.choice(volume.replicas[0].segments)
    sites = tuple(rng.sample(SITES, rng.randrange(4)))
    several = tuple(
        rng.sample([r.local_name for r in volume.replicas], rng.randrange(1, 3) % 3 or 1)
        if len(volume.replicas) > 1
        else [copy]
    )
    return rng.choice(
        [
            Retire(*at, several, rng.choice(RECORDS)),
            BeginResync(*at, stale, rng.choice(RECORDS)),
            BeginResync(*at, stale, "r1"),
            Promote(*at, syncing, boots_of(rng, state)),
            Promote(*at, syncing, boots_of(rng, state)),
            TakeOver(*at, stamp, other),
            MoveOwner(*at, other),
            LoseUnflushed(*at),
            SetHandingOver(*at, rng.random() < 0.5),
            AddCopy(volume.name, sites, same_site=rng.random() < 0.5),
            RemoveCopy(volume.name, copy),
            PauseCopy(volume.name, stale, rng.random() < 0.3),
            BeginMove(*at, volume.replicas[0].local_name, on.storage, on.lun, sites),
            MoveSegments(*at, moving.local_name if moving else copy, boots_of(rng, state)),
            MoveSegments(*at, moving.local_name if moving else copy, boots_of(rng, state)),
            AbortMove(*at, moving.local_name if moving else copy),
            GrowVolume(volume.name, volume.size_sectors + rng.randrange(3 * UNIT)),
        ]
    )


def command(rng: random.Random, state: State, number: int) -> Command:
    known = [state.volumes[name] for name in sorted(state.volumes)]
    if known and rng.random() < 0.7:
        return about_a_volume(rng, state, rng.choice(known))
    manager, name = rng.choice(MANAGERS), rng.choice(NAMES)
    in_trash = rng.choice([*sorted(state.trash), 3])
    release = state.releases.get(rng.choice([*sorted(state.releases), 0]))
    confirm = (
        ConfirmRelease(release.waiting[0], release.release_id) if release else ConfirmRelease(manager, 1)
    )
    sites = tuple(rng.sample(SITES, rng.randrange(4)))
    real = state.reals[rng.choice(sorted(state.reals))]
    return rng.choice(
        [
            BuildVolume(
                name, rng.randrange(1, 12 * UNIT), "ssd", manager, sites, rng.randrange(1, 4), same_site=True
            ),
            BuildVolume(name, rng.randrange(1, 12 * UNIT), "ssd", "m-tokyo", SITES, rng.randrange(1, 4)),
            DeleteVolume(name),
            TrashVolume(name),
            TrashVolume(name),
            RestoreVolume(in_trash, rng.choice(("", "", *NAMES))),
            PurgeVolume(in_trash),
            SetReadOnly(name, rng.random() < 0.5),
            SetReadPolicy(name, rng.choice(("balance", "local", "primary"))),
            confirm,
            confirm,
            confirm,
            Rejoin(manager, rng.choice(("one", "two", "three")), tuple((n, "r1") for n in NAMES)),
            ForceLost(manager, accept_loss=rng.random() < 0.5),
            RenewLease(manager, "life", number, 0),
            ReopenVolumes(manager, "life"),
            SetRealVolumeState(real.storage, real.lun, rng.choice(("active", "active", "draining"))),
        ]
    )


def held_elsewhere(state: State, volume: Volume) -> bool:
    """Naively: some in-sync segment lies at a site of another manager than the owner."""
    return any(
        manager_of(state, segment) != volume.owner
        for replica in volume.replicas
        if replica.state == "in_sync"
        for segment in replica.segments
    )


def manager_of(state: State, segment: Segment) -> str:
    return state.sites[state.reals[(segment.storage, segment.lun)].site].manager


def other_boots(state: State, volume: Volume, wanted: Promote | MoveSegments) -> bool:
    copy = next(r for r in volume.replicas if r.local_name == wanted.replica)
    segments = copy.segments if isinstance(wanted, Promote) else copy.moving
    needed = {manager_of(state, segment) for segment in segments}
    return any(dict(wanted.boots)[manager] != state.boots[manager] for manager in needed)


def must_be_refused(state: State, wanted: Command) -> bool:
    if not hasattr(wanted, "epoch"):
        return False
    volume = state.volumes[wanted.volume]
    if (volume.epoch, volume.owner) != (wanted.epoch, wanted.owner):
        return True
    if isinstance(wanted, Promote | MoveSegments):
        return other_boots(state, volume, wanted)
    if isinstance(wanted, TakeOver):
        lease = state.leases[volume.owner]
        renewed = wanted.stamp != LeaseStamp(lease.incarnation, lease.counter)
        return renewed or not held_elsewhere(state, volume)
    return False


class Run:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.state = self.other = level_three(units=30).state
        self.highest: dict[str, int] = {}
        self.seen: Counter[str] = Counter()
        self.log: list[tuple[bytes, bytes]] = []

    def step(self, number: int) -> None:
        before, wanted = self.state, command(self.rng, self.state, number)
        request = Request("client", number + 1_000, number, "me", wanted)
        data = codec.encode_request(request, before.level)
        self.state, answer = apply(before, data)
        self.log.append((data, answer))
        outcome = codec.decode_outcome(answer)
        assert codec.encode_outcome(plan(before, wanted, number), before.level) == answer
        assert check(self.state) == []
        assert check_step(before, self.state) == []
        if isinstance(outcome, Rejected):
            assert self.state._replace(index=before.index, clients=before.clients) == before
        else:
            assert not must_be_refused(before, wanted), wanted
        self.seen[f"{type(wanted).__name__} {type(outcome).__name__}"] += 1
        if isinstance(wanted, Rejoin) and self.state.boots != before.boots:
            self.rebooted(wanted.manager)
        if isinstance(wanted, ForceLost) and isinstance(outcome, Applied):
            self.lost(before, wanted.manager)
        self.look_back(before)
        self.second_manager(data, answer)
        self.epochs(before)
        if not isinstance(wanted, RenewLease):
            again, same = apply(self.state, data)
            assert (again, same) == (self.state._replace(index=self.state.index + 1), answer)

    def rebooted(self, manager: str) -> None:
        for volume in self.state.volumes.values():
            synced = [r for r in volume.replicas if r.state == "in_sync"]
            if any(manager_of(self.state, s) == manager for r in synced for s in r.segments):
                assert len(synced) == 1
                assert volume.lossy_epoch == volume.epoch

    def lost(self, before: State, manager: str) -> None:
        """In sync there is only what nothing could stand in for, and that is as it was."""
        for name, volume in self.state.volumes.items():
            there = {
                replica.local_name
                for replica in volume.replicas
                if any(manager_of(self.state, segment) == manager for segment in replica.segments)
            }
            if any(r.state == "in_sync" and r.local_name in there for r in volume.replicas):
                others = [r for r in before.volumes[name].replicas if r.local_name not in there]
                assert volume is before.volumes[name]
                assert all(r.state == "failed" or not r.left_epoch for r in others)
                assert all(r.state != "in_sync" for r in others)

    def look_back(self, before: State) -> None:
        found = tables_at(self.state, before.index)
        assert not isinstance(found, OutOfReach)
        for table in REMEMBERED:
            assert getattr(found, table) == getattr(before, table), table

    def second_manager(self, data: bytes, answer: bytes) -> None:
        if self.rng.random() < 0.1:
            packed = codec.encode_state(self.other)
            assert b"".join(codec.encode_state_pieces(self.other)) == packed
            assert codec.decode_state(packed) == self.other
            self.other = codec.decode_state(packed)
        self.other, theirs = apply(self.other, data)
        assert theirs == answer
        assert self.other == self.state

    def epochs(self, before: State) -> None:
        """Ever higher under a name, whichever volume bears it."""
        for name, volume in self.state.volumes.items():
            old = before.volumes.get(name)
            if old is None or old.created_ms != volume.created_ms:
                assert volume.epoch > self.highest.get(name, 0), name
            self.highest[name] = max(self.highest.get(name, 0), volume.epoch)


def some_runs(seeds: int) -> Counter[str]:
    """How often which outcome of which command was seen."""
    seen: Counter[str] = Counter()
    for seed in range(seeds):
        run = Run(seed)
        for number in range(COMMANDS):
            run.step(number)
        seen += run.seen
    return seen


@pytest.mark.parametrize("seed", range(12))
def test_copies_are_kept_apart_and_known_whatever_is_asked(seed: int) -> None:
    print(f"seed {seed}")
    run = Run(seed)
    for number in range(COMMANDS):
        run.step(number)
    assert run.state.index > COMMANDS


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_log_gives_the_same_copies_under_any_hash_seed(seed: int) -> None:
    print(f"seed {seed}")
    run = Run(seed)
    start = run.state
    for number in range(COMMANDS):
        run.step(number)
    answers = hashlib.sha256(b"".join([answer for _, answer in run.log]))
    expected = f"{codec.state_digest(run.state)} {answers.hexdigest()}"
    lines = "\n".join([codec.encode_state(start).hex(), *[data.hex() for data, _ in run.log]])
    for hash_seed in ("0", "1", "2"):
        assert replayed(lines, hash_seed) == expected, f"PYTHONHASHSEED={hash_seed}"


@pytest.mark.parametrize("seed", range(100, 104))
def test_a_new_generation_has_one_copy_in_sync(seed: int) -> None:
    print(f"seed {seed}")
    run = Run(seed)
    for number in range(COMMANDS // 4):
        run.step(number)
    after = reborn(run.state, at_ms=1, who="root", what="recovered")
    assert check(after) == []
    for name, volume in after.volumes.items():
        assert sum(replica.state == "in_sync" for replica in volume.replicas) == 1
        assert all(not replica.record for replica in volume.replicas)
        assert (volume.lossy_epoch == volume.epoch) == (len(volume.replicas) > 1), name


def test_the_random_commands_reach_every_kind_applied_and_refused() -> None:
    """Else the tests above would show little."""
    seen = some_runs(6)
    for kind in set(SINCE_COPIES) - {Rejoin}:  # whose arguments are always in order here
        for outcome in (Applied, Rejected):
            assert seen[f"{kind.__name__} {outcome.__name__}"], (kind, outcome)


def without_compare(state: State, name: str, _epoch: int, _owner: str) -> object:
    return copies.find_volume(state, name)


def in_the_same_epoch(volume: Volume, *changed: object) -> Volume:
    return copies.with_replicas(volume, changed)


def still_in_sync(replica: Replica, _event: str, epoch: int, record: str) -> Replica:
    return replace(replica, left_epoch=epoch, record=record)


def healed_with_its_past(replica: Replica, _event: str) -> Replica:
    return replace(replica, state="in_sync")


def at_an_old_epoch(state: State, volume: Volume) -> State:
    return copies.put(state, replace(volume, epoch=1))


def remembered_without_trash(before: State, after: State, touched: history.Touched) -> object:
    return REMEMBER(before, after, replace(touched, trash=()))


REMEMBER = history.remember
MUTATIONS = {
    "no sole-holder rule": (apply_takeover, "sole_holder", lambda *_: False),
    "no compare of epoch and owner (copies)": (apply_copies, "present", without_compare),
    "no compare of epoch and owner (takeover)": (apply_takeover, "present", without_compare),
    "no compare of epoch and owner (moves)": (apply_moves, "present", without_compare),
    "no new epoch (copies)": (apply_copies, "next_epoch", in_the_same_epoch),
    "no new epoch (moves)": (apply_moves, "next_epoch", in_the_same_epoch),
    "retired, and still in sync": (apply_copies, "left", still_in_sync),
    "rebooted, and still in sync": (apply_takeover, "_rebooted", lambda *_: None),
    "lost, and still in sync": (apply_takeover, "_lost", lambda *_: None),
    "promoted with its past": (apply_copies, "healed", healed_with_its_past),
    "no compare of boots (promotion)": (apply_copies, "boot_problem", lambda *_: None),
    "no compare of boots (moves)": (apply_moves, "boot_problem", lambda *_: None),
    "restored in an old epoch": (apply_trash, "put", at_an_old_epoch),
    "purged space is lost": (apply_trash, "release", lambda state, _: state),
    "the space of a removed copy is lost": (apply_copies, "release", lambda state, _: state),
    "the space of a move is lost": (apply_moves, "release", lambda state, _: state),
    "ended moves keep their space": (apply_takeover, "release", lambda state, _: state),
    "copies share real volumes": (space, "without", lambda pools, _: pools),
    "the trash is not remembered": (history, "remember", remembered_without_trash),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_rule_that_is_missing_is_noticed(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, replacement = MUTATIONS[mutation]
    monkeypatch.setattr(module, name, replacement)
    with pytest.raises(AssertionError):
        some_runs(24)
