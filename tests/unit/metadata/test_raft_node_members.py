"""One Raft node and changes of the members: what it takes in, and whom it counts."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pysyncobj import FAIL_REASON
from pysyncobj.node import TCPNode

from tests.raft_bench import HERE, OTHER, PEER, Bench
from tests.raft_cases import free_addresses
from vimraft.core.tables import State
from vimraft.metadata.port import UnknownOutcome
from vimraft.metadata.pysyncobj.member_changes import MemberChanges
from vimraft.metadata.pysyncobj.members import encode_change
from vimraft.metadata.pysyncobj.proposals import Proposals

DENIED = FAIL_REASON.REQUEST_DENIED


def test_a_cut_tail_takes_its_membership_change_with_it(bench: Bench) -> None:
    fourth = free_addresses(1)[0]
    bench.receive(bench.entries(b"\x00a", encode_change("observe", fourth)))
    bench.run()
    assert fourth in bench.node.known_members
    assert bench.node.talks_to(TCPNode(fourth))
    bench.receive(bench.entries(b"\x00b", term=6, after=bench.node.last_index - 1), OTHER)
    bench.run()
    assert bench.node.known_members.keys() == {HERE, PEER, OTHER}
    assert not bench.node.talks_to(TCPNode(fourth))


def test_the_status_shows_a_change_of_the_members_from_the_round_that_takes_it_in(bench: Bench) -> None:
    """Who has been told that a member is gone must not be shown it any more."""
    for command, present in ((encode_change("rem", OTHER), False), (encode_change("add", OTHER), True)):
        bench.receive(bench.entries(command))
        bench.run()
        assert (OTHER in bench.node.known_members) == present
        published = bench.node.published
        assert published is not None
        assert (OTHER in {peer.address for peer in published[1].peers}) == present


def test_one_change_at_a_time_and_only_after_the_own_terms_first_entry(bench: Bench) -> None:
    fourth, fifth = free_addresses(2)
    codes: list[int] = []
    note: Callable[..., None] = lambda _, code: codes.append(code)  # noqa: E731
    bench.lead()
    bench.node.change_members(encode_change("observe", fourth), note)
    bench.run()
    assert codes == [DENIED]  # nothing of this term is committed
    bench.acknowledge(bench.node.last_index)
    bench.run()
    bench.node.change_members(encode_change("observe", fourth), note)
    bench.node.change_members(encode_change("observe", fifth), note)
    bench.run()
    assert codes == [DENIED, DENIED]
    assert fourth in bench.node.known_members
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert codes == [DENIED, DENIED, FAIL_REASON.SUCCESS]


async def test_a_removal_that_may_still_be_replaced_is_not_called_done(bench: Bench) -> None:
    """The log holds it before the barrier and after it, but not the same one: a new leader has cut the first,
    and its own is not decided."""
    removal = encode_change("rem", OTHER)
    bench.receive(bench.entries(b"\x00a", removal))
    bench.run()
    loop = asyncio.get_running_loop()
    proposals = Proposals(HERE, loop, lambda: True, lambda: None)

    async def barrier(*, deadline_ms: int) -> State:
        del deadline_ms
        after = bench.entries(b"\x00barrier", removal, term=6, after=1)
        bench.receive({**after, "commit_index": 2})
        bench.run(3)
        assert bench.node.raftLastApplied == 2
        return bench.node.state

    changes = MemberChanges(bench.node, proposals, loop, barrier)
    assert OTHER not in bench.node.known_members
    with pytest.raises(UnknownOutcome):
        await changes.remove(OTHER, deadline_ms=150)
    bench.receive({**bench.entries(term=6), "commit_index": 3})
    bench.run(3)
    barrier_passed: Callable[..., Any] = lambda **_: asyncio.sleep(0)  # noqa: E731
    await MemberChanges(bench.node, proposals, loop, barrier_passed).remove(OTHER, deadline_ms=150)


def test_a_change_that_nobody_can_read_does_not_come_into_the_log(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge(bench.node.last_index)
    bench.run()
    before = bench.node.last_index
    codes: list[int] = []
    for command in (b"\x02", b"\x02\x93\xa3add", b"\x02\x80\x02.", encode_change("add", "nowhere")):
        bench.node.change_members(command, lambda _, code: codes.append(code))
    bench.run()
    assert codes == [DENIED] * 4
    assert bench.node.last_index == before


def test_an_observer_is_never_counted(bench: Bench) -> None:
    fourth = free_addresses(1)[0]
    bench.lead()
    bench.acknowledge(bench.node.last_index)
    bench.run()
    bench.node.change_members(encode_change("observe", fourth), lambda *_: None)
    bench.run(2)
    bench.node.commit(b"x", lambda *_: None)
    bench.run()
    bench.acknowledge(bench.node.last_index, sender=fourth)
    bench.run()
    assert not bench.applied
    bench.acknowledge(bench.node.last_index, sender=OTHER)
    bench.run()
    assert bench.applied == [b"x"]
