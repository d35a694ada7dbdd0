"""Events that follow from a change of the tables: pure, so every site tells the same story.

May live here: (previous, current) → events. Map changes come from the replicated history and carry its
index, so that a restart which sees them again does not record them twice.
"""

from collections.abc import Iterator

from vimraft.core.tables import State
from vimraft.site.catalogue import NewEvent


def events_between(previous: State, current: State, now_ms: int) -> list[NewEvent]:
    last = previous.history[-1].index if previous.history else 0
    events = [
        NewEvent(
            name=f"map.{change.what}",
            subject=change.name,
            severity="info",
            message=f"{change.name}: {change.what} by {change.who}",
            at_ms=change.at_ms,
            dedupe=f"map:{current.cluster_id}:{change.index}",
        )
        for change in current.history
        if change.index > last
    ]
    if previous.reals is not current.reals:
        for key, real in current.reals.items():
            old = previous.reals.get(key)
            if old is not None and old.state != real.state:
                events.append(
                    NewEvent(
                        name=f"real.{real.state}",
                        subject=str(key),
                        severity="error" if real.state == "failed" else "info",
                        message=f"real volume {key} is now {real.state}"
                        + (f": {real.reason}" if real.reason else ""),
                        at_ms=now_ms,
                        dedupe=f"real:{current.cluster_id}:{current.index}:{key}",
                    )
                )
    if previous.volumes is not current.volumes:
        events += _losses(previous, current, now_ms)
    return events


def _losses(previous: State, current: State, now_ms: int) -> Iterator[NewEvent]:
    for name, volume in current.volumes.items():
        old = previous.volumes.get(name)
        if old is None or old is volume or volume.lossy_epoch <= old.lossy_epoch:
            continue
        yield NewEvent(
            name="volume.lossy",
            subject=name,
            severity="error",
            message=f"{name}: its last copy in sync lost power or could not flush; what was written and not "
            "flushed may be gone. The next flush of every client that was attached fails once, to tell it",
            at_ms=now_ms,
            dedupe=f"lossy:{current.cluster_id}:{name}:{volume.lossy_epoch}",
        )
