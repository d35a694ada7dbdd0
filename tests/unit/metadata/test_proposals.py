"""Lanes and deadlines of proposals, without a node."""

import asyncio

import pytest

from vimraft.metadata.port import Unavailable, UnknownOutcome
from vimraft.metadata.pysyncobj.proposals import MAX_PENDING_PROPOSALS, NO_ANSWER, Callback, Proposals
from vimraft.metadata.requests import PROPOSAL_LANES


@pytest.fixture
async def proposals() -> Proposals:
    return Proposals("tokyo", asyncio.get_running_loop(), lambda: True, lambda: None)


def soon() -> float:
    return asyncio.get_running_loop().time() + 0.05


def later() -> float:
    return asyncio.get_running_loop().time() + 30


async def take_all(proposals: Proposals) -> list[int]:
    return [(await proposals.lane(later()))[0] for _ in range(PROPOSAL_LANES)]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lane_that_is_given_back_goes_to_the_one_who_waits_longest(proposals: Proposals) -> None:
    lanes = await take_all(proposals)
    order: list[str] = []

    async def wait(name: str) -> None:
        lane, _, _ = await proposals.lane(later())
        order.append(name)
        await turns(3)
        proposals.give_lane(lane)

    first, second = asyncio.create_task(wait("first")), asyncio.create_task(wait("second"))
    await turns(2)
    proposals.give_lane(lanes.pop())
    newcomer = asyncio.create_task(wait("newcomer"))  # may not overtake those who wait
    await asyncio.gather(first, second, newcomer)
    assert order == ["first", "second", "newcomer"]


async def test_waiting_for_a_lane_ends_at_the_deadline_and_leaves_nothing(proposals: Proposals) -> None:
    lanes = await take_all(proposals)
    with pytest.raises(Unavailable, match="earlier ones are not finished"):
        await proposals.lane(soon())
    waits = asyncio.create_task(proposals.lane(later()))
    await turns(2)
    proposals.give_lane(lanes[0])
    assert (await waits)[0] == lanes[0]


async def test_one_that_is_cancelled_with_its_turn_hands_it_on(proposals: Proposals) -> None:
    lanes = await take_all(proposals)
    cancelled, other = (asyncio.create_task(proposals.lane(later())) for _ in range(2))
    await turns(2)
    proposals.give_lane(lanes[0])
    cancelled.cancel()  # its turn has come, but it has not run yet
    assert (await other)[0] == lanes[0]
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    proposals.give_lane(lanes[0])
    assert (await proposals.lane(soon()))[0] == lanes[0]


async def test_one_that_is_cancelled_while_it_waits_is_forgotten(proposals: Proposals) -> None:
    lanes = await take_all(proposals)
    cancelled = asyncio.create_task(proposals.lane(later()))
    await turns(2)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    proposals.give_lane(lanes[0])
    assert (await proposals.lane(soon()))[0] == lanes[0]


async def test_what_waits_is_bounded(proposals: Proposals) -> None:
    await take_all(proposals)
    waiting = [asyncio.create_task(proposals.lane(later())) for _ in range(MAX_PENDING_PROPOSALS)]
    await turns(2)
    with pytest.raises(Unavailable, match="waiting already"):
        await proposals.lane(later())
    proposals.close()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, Unavailable) for one in ended)


async def test_without_an_answer_an_attempt_ends_at_its_deadline(proposals: Proposals) -> None:
    assert await proposals.attempt(lambda done: None, soon()) == (None, NO_ANSWER)


async def test_unanswered_proposals_end_unknown_and_answered_ones_at_once(proposals: Proposals) -> None:
    asked: list[Callback] = []
    with pytest.raises(UnknownOutcome):
        await proposals.until(soon(), asked.append)
    assert len(asked) == 1

    def answer(done: Callback) -> None:
        done(b"result", 0)
        proposals.answers.flush()

    assert await proposals.until(later(), answer) == b"result"


async def test_one_whose_time_is_up_and_who_is_cancelled_at_once_keeps_no_lane(proposals: Proposals) -> None:
    lanes = await take_all(proposals)
    deadline = soon()
    cancelled = asyncio.create_task(proposals.lane(deadline))
    await turns(2)
    turn = proposals._waiting[0]
    turn.set_result((None, NO_ANSWER))  # as the sweep does
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    waits = asyncio.create_task(proposals.lane(later()))
    await turns(2)
    proposals.give_lane(lanes[0])
    assert (await waits)[0] == lanes[0]
