"""Refusals about copies and owners in words.

May live here: one branch per reason that level 3 brought, and one per class of `errors_copies`;
vimraft.api.advice calls in.
"""

from typing import assert_never

from vimraft.api.advice_codes import NOTHING_LOST, Advice, listed, make_advice, unknown_outcome
from vimraft.api.caller_errors import CopiesDiffer, NotAllCompared
from vimraft.api.errors_copies import (
    AnswersStill,
    CopyFault,
    MoveUndecided,
    NothingToCompare,
    NotMoved,
    OneCopyOnly,
    SourceNeeded,
)
from vimraft.api.units import format_bytes
from vimraft.core.reasons import (
    Conflict,
    CopyState,
    LastCopy,
    NoSpaceForCopy,
    OtherBoot,
    Renewed,
    SoleHolder,
)

CopyReason = Conflict | SoleHolder | Renewed | LastCopy | CopyState | OtherBoot | NoSpaceForCopy


def from_copy_reason(reason: CopyReason) -> Advice:
    match reason:
        case Conflict():
            message = (
                f"virtual volume {reason.volume!r} moved on: it has epoch {reason.epoch} and owner "
                f"{reason.owner} now"
            )
            remedy = f"look at it again (vimraft vol show {reason.volume}) and repeat what is still wanted"
        case SoleHolder():
            message = (
                f"virtual volume {reason.volume!r} lies wholly at the sites of its owner {reason.owner}, "
                "which may be serving it although nobody hears of it"
            )
            remedy = (
                f"bring {reason.owner} back; if its sites are lost for good and cannot write any more, tell "
                "the tables with: vimraft site force-lost"
            )
        case Renewed():
            message = f"manager {reason.manager!r} is alive: it has renewed its lease meanwhile"
            remedy = "nothing needs to be taken over; to move a volume: vimraft vol move-owner"
        case LastCopy():
            message = f"no copy in sync would be left of {listed(reason.volumes)}"
            remedy = f"add a copy and let it get in sync first (vimraft copy add); {NOTHING_LOST}"
        case CopyState():
            message = f"copy {reason.replica} of virtual volume {reason.volume!r} is {reason.state}"
            remedy = f"see how its copies are with: vimraft vol show {reason.volume}"
        case OtherBoot():
            boot = f"in boot {reason.boot}" if reason.boot else "in no boot that the tables know"
            message = f"the stores of manager {reason.manager!r} are {boot}, not in the one named"
            remedy = "data may have been lost with the other one: the copy has to be resynced again"
        case NoSpaceForCopy():
            return _no_space_for_copy(reason)
        case _:
            assert_never(reason)
    return make_advice("conflict", message, remedy, reason)


def from_copy_fault(error: CopyFault) -> Advice:
    match error:
        case OneCopyOnly():
            return make_advice(
                "rejected",
                f"virtual volume {error.name!r} has one copy, and nothing of it lies at sites of "
                f"{error.manager}, which therefore cannot own it",
                f"move it there (vimraft vol migrate {error.name} --site SITE), or add a copy there (vimraft "
                f"copy add {error.name} --sites SITE)",
            )
        case NotMoved():
            return make_advice(
                "conflict",
                f"virtual volume {error.name!r} was not handed over: {error.why or 'its owner could not'}",
                f"see how its copies are with: vimraft vol show {error.name}; then repeat it",
            )
        case MoveUndecided():
            return unknown_outcome(f"the owner of virtual volume {error.name!r} is still handing it over")
        case NothingToCompare():
            one = "has one copy" if error.copies == 1 else "has fewer than two copies in sync"
            return make_advice(
                "rejected",
                f"virtual volume {error.name!r} {one}, so that there is nothing to compare",
                f"see how its copies are with: vimraft vol show {error.name}",
            )
        case SourceNeeded():
            return make_advice(
                "rejected",
                f"copies {listed(error.copies)} of virtual volume {error.name!r} cannot tell which of them "
                "is right: that takes three copies in sync",
                f"name the one that the others are to get: vimraft copy verify {error.name} --repair "
                f"--source SITE/COPY; {NOTHING_LOST}",
            )
        case AnswersStill():
            return make_advice(
                "conflict",
                f"manager {error.name!r} answers: it is not lost",
                "to move volumes away from it: vimraft vol move-owner; to give it up all the same, stop it "
                f"and fence its storages first; {NOTHING_LOST}",
            )
        case _:
            return make_advice(
                "internal", f"{type(error).__name__}: {error.name}", "look into the manager's log"
            )


def from_comparing(error: CopiesDiffer | NotAllCompared) -> Advice:
    why = f" ({error.why})" if error.why else ""
    if isinstance(error, NotAllCompared):
        return make_advice(
            "unavailable",
            f"no difference was found, but copies of virtual volume {error.volume!r} could not be compared "
            f"everywhere{why}",
            f"see how its copies are with: vimraft vol show {error.volume}; then compare them again",
        )
    return make_advice(
        "conflict",
        f"copies of virtual volume {error.volume!r} differ in {error.regions} regions{why}",
        "once it is clear which copy is right: "
        f"vimraft copy verify {error.volume} --repair --source SITE/COPY",
    )


def _no_space_for_copy(reason: NoSpaceForCopy) -> Advice:
    space = reason.space
    sites = ", ".join(f"{format_bytes(s.free_bytes, 'down')} at {s.site}" for s in space.sites)
    return make_advice(
        "rejected",
        f"no room for copy {reason.copy} of {reason.copies}: {format_bytes(space.needed_bytes, 'up')} of "
        f"class {space.volume_class} on real volumes, and at sites, that no other copy uses (free: "
        f"{sites or 'nothing, no site is left'})",
        "name further sites with --sites, let copies share a site with --same-site, ask for fewer copies, or "
        "add a real volume with: vimraft real add",
        reason,
    )
