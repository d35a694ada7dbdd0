"""Letting managers in, promoting, removing and replacing them, on an in-process log; and every order of
interruption between the tables and the log."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from vimraft.api.errors import (
    IdentityChanged,
    LastVoter,
    NoMajorityLeft,
    NotCaughtUp,
    NotInLog,
    OnlyItself,
    Refused,
    StillAlive,
)
from vimraft.api.schema import Heartbeat, JoinRequest, JoinSite, Pids
from vimraft.core.commands import Applied, FormCluster, Rejected, SetManager, SetSite, SetStorage
from vimraft.core.reasons import Exists, InUse, NotFound
from vimraft.core.tables import Manager, Settings, Site, State, Storage
from vimraft.metadata.memory_log import MemoryCluster, MemoryLog
from vimraft.metadata.port import Unavailable, UnknownOutcome
from vimraft.site.health import Health
from vimraft.site.member_views import membership, raft_view
from vimraft.site.membership import MemberOperations

WHO = "test"


def manager(name: str, raft: str = "") -> Manager:
    number = sum(name.encode())
    others = [f"127.0.0.1:{number * 8 + n}" for n in range(3)]
    return Manager(name, raft or address(name), f"http://{others[0]}", others[1], others[2])


def address(name: str) -> str:
    return f"127.0.0.1:{sum(name.encode()) * 8 + 3}"


def request(name: str, **changes: object) -> JoinRequest:
    row = manager(name)
    base = JoinRequest(
        name, row.raft_address, row.api_url, row.nbd_address, row.peer_address, (JoinSite(name),)
    )
    return msgspec.structs.replace(base, **changes)


class Context(SimpleNamespace):
    log: MemoryLog

    @property
    def state(self) -> State:
        return self.log.state

    async def fresh_state(self) -> State:
        return self.log.state

    async def record(self, *event: str) -> None:
        self.events.append(event)


class Node(MemberOperations):
    """What membership needs of a manager."""

    def __init__(self, log: MemoryLog, name: str) -> None:
        self.site = Context(  # type: ignore[assignment]
            log=log, me=name, events=[], config=SimpleNamespace(network=SimpleNamespace(raft=address(name)))
        )
        self._members_lock = asyncio.Lock()
        self.health = Health(
            name, token="t", state=lambda: log.state, make_beat=lambda: None, changed=lambda *_: None
        )

    async def _commit(self, command, who, request_id):
        outcome = await self.site.log.propose(command, who=who, deadline_ms=1_000, request_id=request_id)
        if isinstance(outcome, Rejected):
            raise Refused(outcome.reason)
        assert isinstance(outcome, Applied)
        return outcome

    def beat_of(self, name: str, log: MemoryLog) -> None:
        beat = Heartbeat(name, "inc", log.state.index, Pids(1, 2, 3), "", 0, raft=raft_view(log.status()))
        self.health.hear(beat)

    def shown(self) -> dict[str, str]:
        found = membership(self.site.state, self.site.log.status(), self.health, self.site.me)
        return {m.name or m.raft_address: m.role for m in found.members}


class Case:
    """tokyo (leads, by its address), osaka and nagoya are voters."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.names = ("tokyo", "osaka", "nagoya")
        self.nodes = {name: Node(self.cluster.log(address(name)), name) for name in self.names}
        self.asked = next(n for n in self.nodes.values() if n.site.log.status().is_leader)

    async def form(self) -> "Case":
        await self.asked._commit(FormCluster("c", Settings()), WHO, None)
        for name in self.names:
            await self.asked._commit(SetManager(manager(name)), WHO, None)
            await self.asked._commit(SetSite(Site(name, name)), WHO, None)
        return self

    def other(self) -> str:
        """A voter that does not lead."""
        return next(name for name in self.names if self.nodes[name] is not self.asked)

    def third(self) -> str:
        return next(n for n in self.names if self.nodes[n] is not self.asked and n != self.other())

    async def join(self, name: str, **changes: object) -> object:
        return await self.asked.join(request(name, **changes), who=WHO, passed=False)

    async def remove(self, name: str, *, force: bool = False, request_id: str | None = None) -> object:
        return await self.asked.remove_manager(
            name, force=force, who=WHO, request_id=request_id, passed=False
        )


@pytest.fixture
async def case() -> Case:
    return await Case().form()


# --- in -------------------------------------------------------------------------------------------


async def test_a_joining_manager_is_in_the_tables_first_and_in_the_log_once_it_runs(case: Case) -> None:
    reply = await case.join("sendai")
    assert (reply.role, reply.cluster, reply.generation) == ("joining", "memory", 1)
    assert set(reply.members) == {address(name) for name in case.names}
    assert case.asked.shown()["sendai"] == "joining"
    assert len(case.cluster.members) == 3, "a voter that does not answer would weaken the cluster"
    log = case.cluster.fresh(address("sendai"))
    assert (await case.join("sendai", listening=True, node_id=log.node_id)).role == "voter"
    assert log.state == case.asked.site.state
    assert case.asked.shown()["sendai"] == "voter"


async def test_an_even_number_of_voters_is_allowed_but_said(case: Case) -> None:
    reply = await case.join("sendai")
    assert "4 voters survive the loss of 1, no more than 3 would" in reply.note
    assert (await case.join("sendai", observer=True)).note == ""


async def test_an_observer_stays_one_until_it_is_promoted(case: Case) -> None:
    await case.join("sendai", observer=True)
    log = case.cluster.fresh(address("sendai"))
    for _ in range(2):
        reply = await case.join("sendai", observer=True, listening=True, node_id=log.node_id)
        assert reply.role == "observer"
    assert log.status().role == "observer"
    assert log.state == case.asked.site.state
    await case.asked.promote("sendai", who=WHO, passed=False)
    await case.asked.promote("sendai", who=WHO, passed=False)
    assert log.status().role == "voter"


async def test_a_slow_joiner_is_an_observer_until_it_has_caught_up(case: Case) -> None:
    await case.join("sendai")
    log = case.cluster.fresh(address("sendai"))
    case.cluster.cut_off(address("sendai"))
    reply = await case.join("sendai", listening=True, node_id=log.node_id)
    assert reply.role == "observer"
    assert "caught up" in reply.note
    with pytest.raises(NotCaughtUp):
        await case.asked.promote("sendai", who=WHO, passed=False)
    case.cluster.heal(address("sendai"))
    assert (await case.join("sendai", listening=True, node_id=log.node_id)).role == "voter"


async def test_a_manager_that_never_ran_cannot_be_promoted(case: Case) -> None:
    await case.join("sendai")
    with pytest.raises(NotInLog):
        await case.asked.promote("sendai", who=WHO, passed=False)
    with pytest.raises(Refused) as caught:
        await case.asked.promote("kyoto", who=WHO, passed=False)
    assert isinstance(caught.value.reason, NotFound)


async def test_names_and_sites_of_others_are_refused(case: Case) -> None:
    with pytest.raises(Refused) as caught:
        await case.join("tokyo", raft_address="127.0.0.1:1")
    assert isinstance(caught.value.reason, Exists)
    with pytest.raises(Refused) as caught:
        await case.join("sendai", sites=(JoinSite("osaka"),))
    assert isinstance(caught.value.reason, Exists)
    assert "sendai" not in case.asked.site.state.managers


async def test_one_that_was_removed_cannot_ask_itself_back_in(case: Case) -> None:
    await case.join("sendai")
    log = case.cluster.fresh(address("sendai"))
    await case.join("sendai", listening=True, node_id=log.node_id)
    await case.remove("sendai")
    with pytest.raises(Refused) as caught:
        await case.join("sendai", listening=True, node_id=log.node_id)
    assert isinstance(caught.value.reason, NotFound)
    assert log.status().role == "joining"


# --- out ------------------------------------------------------------------------------------------


async def test_a_dead_manager_is_removed_from_the_log_and_the_tables(case: Case) -> None:
    gone = case.other()
    case.cluster.cut_off(address(gone))
    await case.remove(gone)
    assert address(gone) not in case.cluster.members
    assert gone not in case.asked.site.state.managers
    assert gone not in case.asked.site.state.sites


async def test_without_a_majority_left_a_removal_is_refused_with_names_unless_forced(case: Case) -> None:
    case.cluster.cut_off(address(case.other()))
    with pytest.raises(NoMajorityLeft) as caught:
        await case.remove(case.third())
    assert caught.value.silent == (case.other(),)
    assert len(case.cluster.members) == 3
    assert case.third() in case.asked.site.state.managers
    await case.remove(case.third(), force=True)
    assert len(case.cluster.members) == 2


async def test_an_observer_can_always_go(case: Case) -> None:
    await case.join("sendai", observer=True)
    log = case.cluster.fresh(address("sendai"))
    await case.join("sendai", observer=True, listening=True, node_id=log.node_id)
    case.cluster.cut_off(address(case.other()))
    await case.remove("sendai")
    assert address("sendai") not in case.cluster.members


async def test_a_manager_with_a_storage_stays_whole(case: Case) -> None:
    held = case.other()
    await case.asked._commit(SetStorage(Storage("a", held, "")), WHO, None)
    with pytest.raises(Refused) as caught:
        await case.remove(held)
    assert isinstance(caught.value.reason, InUse)
    assert address(held) in case.cluster.members
    assert held in case.asked.site.state.sites


async def test_the_sites_of_a_removed_manager_leave_the_orders_of_others(case: Case) -> None:
    gone, stays = case.other(), case.third()
    await case.asked._commit(SetSite(Site(stays, stays, (gone, case.asked.site.me))), WHO, None)
    await case.asked._commit(SetSite(Site("annex", gone, (gone,))), WHO, None)
    await case.asked._commit(SetSite(Site(gone, gone, ("annex",))), WHO, None)
    await case.remove(gone)
    assert case.asked.site.state.sites[stays].priority == (case.asked.site.me,)
    assert set(case.asked.site.state.sites) == {stays, case.asked.site.me}


async def test_nobody_takes_itself_out_when_nobody_else_answers(case: Case) -> None:
    me = case.asked.site.me
    with pytest.raises(OnlyItself):
        await case.remove(me)
    for name in (case.other(), case.third()):
        await case.remove(name)
    with pytest.raises(LastVoter):
        await case.remove(me)
    with pytest.raises(LastVoter):
        await case.remove(me, force=True)


async def test_an_unknown_manager_is_not_found_and_a_repetition_gets_the_first_answer(case: Case) -> None:
    with pytest.raises(Refused) as caught:
        await case.remove("kyoto")
    assert isinstance(caught.value.reason, NotFound)
    first = await case.remove(case.other(), request_id="r1")
    assert await case.remove(case.other(), request_id="r1") == first


class Crash(Exception):
    pass


def crash_in(log: MemoryLog, what: str, *, after: bool) -> None:
    """The next call of `what` ends this manager, before or after it had its effect."""
    work = getattr(log, what)

    async def once(*args, **kwargs):
        setattr(log, what, work)
        if after:
            await work(*args, **kwargs)
        raise Crash

    setattr(log, what, once)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("what", ["remove_member", "propose"])
async def test_a_removal_that_was_interrupted_anywhere_is_finished_by_repeating_it(
    case: Case, what: str, after: bool
) -> None:
    gone = case.other()
    crash_in(case.asked.site.log, what, after=after)
    with pytest.raises(Crash):
        await case.remove(gone)
    # half done, it is safe: who is not in the log any more is at least still known by name
    in_log = address(gone) in case.cluster.members
    assert in_log or gone in case.asked.site.state.managers
    await case.remove(gone)
    assert address(gone) not in case.cluster.members
    assert gone not in case.asked.site.state.managers


async def test_a_site_that_its_manager_put_back_meanwhile_goes_with_it(case: Case) -> None:
    gone = case.other()
    log = case.asked.site.log
    work = log.remove_member

    async def once(*args, **kwargs):
        log.remove_member = work
        await case.asked._commit(SetSite(Site(gone, gone)), WHO, None)
        await work(*args, **kwargs)

    log.remove_member = once
    await case.remove(gone)
    assert gone not in case.asked.site.state.sites
    assert gone not in case.asked.site.state.managers


async def test_a_lost_answer_of_the_log_leaves_a_removal_to_be_repeated(case: Case) -> None:
    case.cluster.lose_replies(case.asked.site.log.status().self_address)
    with pytest.raises(UnknownOutcome):
        await case.remove(case.other())
    await case.remove(case.other())
    assert case.other() not in case.asked.site.state.managers


# --- replace --------------------------------------------------------------------------------------


async def test_a_wiped_manager_comes_back_as_itself_with_its_sites_and_storages(case: Case) -> None:
    lost = case.other()
    await case.asked._commit(SetStorage(Storage("a", lost, "")), WHO, None)
    wiped = case.cluster.fresh(address(lost))
    assert wiped.state.index == 0
    assert case.asked.shown()[lost] == "voter"
    with pytest.raises(IdentityChanged):
        await case.join(lost, listening=True, node_id=wiped.node_id)
    reply = await case.join(lost, replace=True)
    assert reply.role == "joining"
    assert wiped.state.index == 0, "not let in yet"
    assert (await case.join(lost, listening=True, node_id=wiped.node_id)).role == "voter"
    assert wiped.state == case.asked.site.state
    assert wiped.state.sites[lost].manager == lost
    assert wiped.state.storages["a"].site == lost


async def test_a_replaced_manager_may_have_new_addresses(case: Case) -> None:
    lost = case.other()
    case.cluster.cut_off(address(lost))
    moved = "127.0.0.1:9"
    await case.join(lost, replace=True, raft_address=moved)
    log = case.cluster.fresh(moved)
    await case.join(lost, listening=True, raft_address=moved, node_id=log.node_id)
    assert case.asked.site.state.managers[lost].raft_address == moved
    assert address(lost) not in case.cluster.members
    # the old one, back from the dead, is a stranger
    case.cluster.heal(address(lost))
    with pytest.raises(Refused):
        await case.join(lost, listening=True, node_id="any")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("what", ["remove_member", "propose"])
async def test_a_replacement_that_was_interrupted_is_finished_by_repeating_it(
    case: Case, what: str, after: bool
) -> None:
    lost = case.other()
    case.cluster.cut_off(address(lost))
    moved = "127.0.0.1:9"
    crash_in(case.asked.site.log, what, after=after)
    with pytest.raises(Crash):
        await case.join(lost, replace=True, raft_address=moved)
    assert lost in case.asked.site.state.managers
    await case.join(lost, replace=True, raft_address=moved)
    log = case.cluster.fresh(moved)
    assert (await case.join(lost, listening=True, raft_address=moved, node_id=log.node_id)).role == "voter"
    assert sorted(case.cluster.members) == sorted({moved, *map(address, case.names)} - {address(lost)})


async def test_a_manager_that_lives_is_not_replaced(case: Case) -> None:
    alive = case.other()
    with pytest.raises(StillAlive, match=alive):
        await case.join(alive, replace=True)
    case.cluster.cut_off(address(alive))
    case.asked.beat_of(alive, case.nodes[alive].site.log)
    with pytest.raises(StillAlive) as caught:
        await case.join(alive, replace=True)
    assert "heard" in caught.value.heard
    with pytest.raises(StillAlive):
        await case.join(case.asked.site.me, replace=True)
    with pytest.raises(Refused):
        await case.join("kyoto", replace=True)
    assert len(case.cluster.members) == 3


async def test_two_of_three_lost_cannot_be_replaced_one_by_one(case: Case) -> None:
    for name in (case.other(), case.third()):
        case.cluster.cut_off(address(name))
    with pytest.raises(NoMajorityLeft):
        await case.join(case.other(), replace=True)


# --- who does it, what is shown -------------------------------------------------------------------


async def test_a_change_is_passed_on_to_the_manager_of_the_leader(case: Case) -> None:
    node = case.nodes[case.other()]
    leader = case.asked.site.me
    assert node._leading_elsewhere(False) is None, "not heard: done here"
    node.beat_of(leader, case.asked.site.log)
    found = node._leading_elsewhere(False)
    assert found is not None
    assert found.name == leader
    assert node._leading_elsewhere(True) is None, "never passed on twice"
    assert case.asked._leading_elsewhere(False) is None


async def test_the_leader_asks_another_to_take_it_out(case: Case) -> None:
    case.asked.beat_of(case.other(), case.nodes[case.other()].site.log)
    doer = case.asked._other_than(case.asked.site.me, False)
    assert doer is not None
    assert doer.name == case.other()


async def test_a_member_is_shown_with_the_view_of_the_leader(case: Case) -> None:
    node = case.nodes[case.other()]
    case.cluster.cut_off(address(case.third()))
    node.beat_of(case.asked.site.me, case.asked.site.log)
    shown = membership(node.site.state, node.site.log.status(), node.health, node.site.me)
    assert shown.seen_by == case.asked.site.me
    assert (shown.voters, shown.voters_needed, shown.voters_reachable) == (3, 2, 2)
    roles = {m.name: (m.role, m.connected) for m in shown.members}
    assert roles == {
        case.asked.site.me: ("leader", True),
        case.other(): ("voter", True),
        case.third(): ("voter", False),
    }


async def test_a_wiped_manager_is_told_the_command_that_brings_it_back(case: Case) -> None:
    status = case.nodes[case.other()].site.log.status()
    refused = msgspec.structs.replace(
        status,
        has_quorum=False,
        leader_address=None,
        peers=tuple(
            msgspec.structs.replace(p, connected=False, refused="another node id") for p in status.peers
        ),
    )
    node = case.nodes[case.other()]
    shown = membership(State(), refused, node.health, node.site.me)
    (advice,) = shown.advice
    assert f"vimraft site join --replace {case.other()} " in advice
    assert "another node id" in advice


async def test_without_a_leader_nothing_changes(case: Case) -> None:
    case.cluster.cut_off(case.asked.site.log.status().self_address)
    with pytest.raises((Unavailable, NoMajorityLeft)):
        await case.remove(case.other())
    assert case.other() in case.asked.site.state.managers
