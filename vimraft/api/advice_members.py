"""Changes of the log's members in words: why one is refused, and what to think of.

May live here: one branch per class of vimraft.api.errors.MembershipFault, and the advice about the number
of voters; vimraft.api.advice calls in.
"""

from typing import Final

from vimraft.api import errors
from vimraft.api.advice_codes import NOTHING_LOST, Advice, listed, make_advice

MANY_VOTERS: Final = 7


def replace_command(manager: str) -> str:
    return f"vimraft site join --replace {manager} --config FILE --via URL --token-file FILE"


def from_membership_fault(error: errors.MembershipFault) -> Advice:
    name = error.manager
    match error:
        case errors.NotInLog():
            return make_advice(
                "conflict",
                f"manager {name!r} is not in the log yet",
                "start it (vimraft site run): it asks to be let in by itself",
            )
        case errors.NotCaughtUp():
            return _not_caught_up(error)
        case errors.NoMajorityLeft():
            return _no_majority_left(error)
        case errors.LastVoter():
            return make_advice(
                "conflict",
                f"manager {name!r} is the last voter: without it nobody could change the tables any more",
                "promote an observer first: vimraft manager promote NAME",
            )
        case errors.StillAlive():
            return make_advice(
                "conflict",
                f"manager {name!r} is alive ({error.heard}): one that still runs is never replaced, since "
                "both would serve the same volumes",
                "stop it and make sure that its data plane is off, wait some seconds, and repeat",
            )
        case errors.IdentityChanged():
            return make_advice(
                "conflict",
                f"manager {name!r} comes with another data directory than the one that was let in",
                "bring the old directory back and start it; if its disk is lost, stop it and run there: "
                + replace_command(name),
            )
        case errors.OnlyItself():
            return make_advice(
                "unavailable",
                f"manager {name!r} cannot take itself out, and no other manager can be reached to do it",
                f"start another manager, then repeat; {NOTHING_LOST}",
            )
        case _:
            return make_advice("internal", f"unexpected {type(error).__name__} about {name!r}", "report it")


def _not_caught_up(error: errors.NotCaughtUp) -> Advice:
    behind = "" if error.lag is None else f", {error.lag} log entries behind"
    detail = f" ({error.detail})" if error.detail else ""
    return make_advice(
        "conflict",
        f"manager {error.manager!r} has not caught up yet{behind}{detail}: as a voter it would hold every "
        "change up",
        "make sure that it runs and can be reached (vimraft manager ls shows its lag), then repeat",
    )


def _no_majority_left(error: errors.NoMajorityLeft) -> Advice:
    return make_advice(
        "conflict",
        f"without manager {error.manager!r} the voters left would be {listed(error.left)}, and of these "
        f"{listed(error.silent)} cannot be reached: no majority, so nothing could be changed any more",
        f"start {listed(error.silent)} first, or remove what is dead before what is alive; --force goes on "
        "all the same, for one that is only seen as unreachable",
    )


def voters_advice(voters: int) -> str:
    """What to think of about this number of voters; '' when it is a good one."""
    if voters > MANY_VOTERS:
        return (
            f"{voters} voters: every change waits for {voters // 2 + 1} of them. Have 3, 5 or 7; let "
            "further sites join with --observer"
        )
    if voters % 2 == 0 and voters:
        survives = max(voters // 2 - 1, 0)
        return (
            f"{voters} voters survive the loss of {survives}, no more than {voters - 1} would: add one "
            "more, or make one an observer (vimraft manager rm, then vimraft site join --observer)"
        )
    return ""


def refused_advice(manager: str, by: tuple[str, ...], why: str) -> str:
    """For a manager that the others do not let in."""
    return (
        f"the others refuse this manager. If its disk was lost or wiped, stop it and run here: "
        f"{replace_command(manager)} ({listed(by)}: {why})"
    )
