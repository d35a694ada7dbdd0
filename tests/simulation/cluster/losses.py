"""What clients may see, sector by sector, of a volume that may have lost power at its last in-sync copy.

May live here: turning a record into the events of sectors (`linear`), and the rules of a loss (INV-3): what
was flushed is still there, what was not may be gone back to anything since, once; and the first FLUSH of
every session that was there before fails.

A write that ended with EIO took effect before whatever began later does (all copies are made equal first), or
never. One of which nobody knows the end may take effect at any time.
"""

from collections.abc import Iterator
from math import inf

from tests.simulation.cluster.linear import Event, problem_of
from tests.simulation.cluster.record import ZERO, Loss, Operation, Record


def problems(record: Record) -> Iterator[str]:
    """Sentences, one for each sector that no order explains, and one for each flush that hid a loss."""
    by_volume: dict[str, list[Operation]] = {}
    for operation in record.operations:
        by_volume.setdefault(operation.volume, []).append(operation)
    for volume, operations in sorted(by_volume.items()):
        losses = [loss for loss in record.losses if loss.volume == volume]
        yield from _sectors(volume, operations, losses)
        for loss in losses:
            if loss.told:
                yield from _untold(record, operations, loss)


def _sectors(volume: str, operations: list[Operation], losses: list[Loss]) -> Iterator[str]:
    touched: dict[int, list[Operation]] = {}
    for operation in operations:
        if operation.kind == "flush" or (operation.kind == "read" and operation.how != "done"):
            continue
        for sector in range(operation.first, operation.first + operation.sectors):
            touched.setdefault(sector, []).append(operation)
    flushes = [one for one in operations if one.kind == "flush" and one.how == "done"]
    for sector, involved in sorted(touched.items()):
        if not any(one.kind == "read" for one in involved):
            continue
        problem = _sector(sector, involved, flushes, losses)
        if problem is not None:
            yield f"{volume} sector {sector}: {problem}"


def _name(one: Operation) -> str:
    return f"{one.kind} #{one.number} of {one.client}"


def _event(sector: int, one: Operation) -> Event:
    assert one.end is not None, "it has ended"
    end = inf if one.how == "gone" else one.end
    tag = one.tags[sector - one.first]
    return Event(tag, one.begin, end, one.writes, _name(one), optional=one.how == "failed")


def _sector(
    sector: int, involved: list[Operation], flushes: list[Operation], losses: list[Loss]
) -> str | None:
    """Era after era, each of which ends with a loss."""
    first: tuple[int, ...] = (ZERO,)
    may_come: list[Operation] = []
    since: float = 0
    for until, known in _eras(losses):
        era = [one for one in involved if since <= one.begin < until]
        events = [_pending(sector, one) for one in may_come]
        for one in era:
            if one.end is not None and one.end <= until:
                events.append(_event(sector, one))
            elif one.writes:
                events.append(_pending(sector, one))
        if losses and any(event.is_write and event.tag == ZERO for event in events):
            return None  # zeros cannot be told apart across a loss
        problem = problem_of(events, starts_with=first) if known else None
        if problem is not None:
            return problem
        first = _survivors(sector, [*may_come, *era], flushes if known else [], until, first)
        may_come = [one for one in (*may_come, *era) if one.writes and not _settled(one, until)]
        since = until
    return None


def _eras(losses: list[Loss]) -> list[tuple[float, bool]]:
    """Their ends, and whether reads are checked in them: not while pages are being dropped."""
    ends: list[tuple[float, bool]] = []
    for loss in losses:
        if ends and loss.stamp < ends[-1][0]:
            continue  # while that goes on
        ends.append((float(loss.stamp), True))
        if loss.until is not None:
            ends.append((float(loss.until), False))
    return [*ends, (inf, True)]


def _settled(one: Operation, until: float) -> bool:
    return one.how in ("done", "failed") and one.end is not None and one.end <= until


def _pending(sector: int, one: Operation) -> Event:
    """It may have taken effect before a loss, and be gone; or come later."""
    return Event(one.tags[sector - one.first], one.begin, inf, True, _name(one))


def _survivors(
    sector: int, era: list[Operation], flushes: list[Operation], until: float, first: tuple[int, ...]
) -> tuple[int, ...]:
    """Tags that a loss may bring back: all but those that a flushed write had replaced for good."""
    settled = [one for one in era if one.writes and _settled(one, until)]
    safe = [one for one in settled if one.how == "done" and (one.fua or _flushed(one, flushes, until))]
    found = [
        one.tags[sector - one.first]
        for one in settled
        if not any(one.end is not None and other.begin > one.end for other in safe)
    ]
    return tuple(found) if safe else (*first, *found)


def _flushed(one: Operation, flushes: list[Operation], until: float) -> bool:
    return any(
        flush.begin > one.end and flush.end <= until
        for flush in flushes
        if flush.end is not None and one.end is not None
    )


def _untold(record: Record, operations: list[Operation], loss: Loss) -> Iterator[str]:
    """One flush may have been under way when it happened, or several at once: any of them may tell it."""
    flushes: dict[str, list[Operation]] = {}
    for one in operations:
        if one.kind == "flush" and one.end is not None and one.end > loss.since:
            flushes.setdefault(one.session, []).append(one)
    for name, found in sorted(flushes.items()):
        session = record.sessions.get(name)
        if session is None or session.begin > loss.since:
            continue
        told = min((one.begin for one in found if one.how in ("failed", "gone")), default=inf)
        for flush in found:
            if flush.how == "done" and flush.begin > loss.stamp and (flush.end or 0) < told:
                yield (
                    f"{loss.volume}: flush #{flush.number} of {flush.client} succeeded, although its session "
                    f"was there when what was not flushed was lost (epoch {loss.epoch})"
                )
                break
