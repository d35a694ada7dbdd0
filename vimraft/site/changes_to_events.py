"""Events that follow from a change of the tables: pure, so every site tells the same story.

May live here: (previous, current) → events. Map changes come from the replicated history and carry its
index, so that a restart which sees them again does not record them twice.
"""

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
    return events
