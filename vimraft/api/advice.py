"""Causes into advice: with its parts (advice_*) the only place with prose about failures.

`from_reason` and `from_exception` turn typed causes into an HTTP status, an exit code and an ErrorReply
whose message names the thing and the cause, and whose remedy says what to do next. The server answers
with them, the CLI prints them. May live here: one function per cause, and the tables of codes.

Keeps INV-9: every cause that the code below can raise has a function here (a test holds the unions
against it); what is not known is reported as internal, never swallowed.
"""

from typing import assert_never

import msgspec

from vimraft.api.advice_caller import from_caller_error, from_status, from_usage
from vimraft.api.advice_codes import (
    EXIT_CODES,
    NOTHING_LOST,
    STATUS,
    Advice,
    exit_code_lines,
    exit_code_of,
    listed,
    make_advice,
    unknown_outcome,
)
from vimraft.api.advice_copies import from_copy_fault, from_copy_reason
from vimraft.api.advice_members import from_membership_fault
from vimraft.api.advice_meta import from_out_of_reach
from vimraft.api.advice_moves import from_move_fault
from vimraft.api.caller_errors import CallerError
from vimraft.api.errors import (
    DeviceProblem,
    IndexOutOfReach,
    ManagerUnreachable,
    MembershipFault,
    MoveFault,
    PassedOn,
    Refused,
)
from vimraft.api.errors_copies import CopyFault
from vimraft.api.units import format_bytes, size_argument
from vimraft.core.codec import CodecError
from vimraft.core.reasons import (
    CannotRead,
    Conflict,
    CopyState,
    Exists,
    InUse,
    Invalid,
    LastCopy,
    Malformed,
    NoSpace,
    NoSpaceForCopy,
    NotFormed,
    NotFound,
    OtherBoot,
    Outdated,
    Reason,
    Renewed,
    SoleHolder,
    Unsupported,
)
from vimraft.data.backends.base import BackendError
from vimraft.metadata.port import LogError, Unavailable, UnknownOutcome

__all__ = [
    "EXIT_CODES",
    "STATUS",
    "Advice",
    "exit_code_lines",
    "exit_code_of",
    "from_caller_error",
    "from_exception",
    "from_log_error",
    "from_reason",
    "from_status",
    "from_usage",
]

_LISTING = {
    "cluster": "vimraft status",
    "manager": "vimraft manager ls",
    "site": "vimraft site ls",
    "storage": "vimraft storage ls",
    "real volume": "vimraft real ls",
    "virtual volume": "vimraft vol ls",
    "setting": "vimraft settings show",
    "release": "vimraft tables",
    "copy": "vimraft vol show NAME",
    "trashed volume": "vimraft trash ls",
}


def from_reason(reason: Reason) -> Advice:
    """Why the tables refused a command, in words."""
    match reason:
        case NotFound():
            return _not_found(reason)
        case Exists():
            return _exists(reason)
        case Invalid():
            return _invalid(reason)
        case InUse():
            return _in_use(reason)
        case NoSpace():
            return _no_space(reason)
        case Unsupported():
            return _unsupported(reason)
        case NotFormed():
            return _not_formed(reason)
        case Outdated():
            return _outdated(reason)
        case Malformed():
            return _malformed(reason)
        case CannotRead():
            return _cannot_read(reason)
        case (
            Conflict() | SoleHolder() | Renewed() | LastCopy() | CopyState() | OtherBoot() | NoSpaceForCopy()
        ):
            return from_copy_reason(reason)
        case _:
            assert_never(reason)


def _not_found(reason: NotFound) -> Advice:
    known = f"known: {listed(reason.known)}; " if reason.known else f"there is no {reason.kind} yet; "
    return make_advice(
        "not_found",
        f"no {reason.kind} {reason.name!r}",
        f"{known}see them all with: {_LISTING[reason.kind]}",
        reason,
    )


def _exists(reason: Exists) -> Advice:
    remedies = {
        "cluster": "the cluster is formed already; a further manager joins with: vimraft site join",
        "virtual volume": "choose another name, look at it with: vimraft vol show "
        f"{reason.name}, or delete it with: vimraft vol rm {reason.name} --yes",
        "real volume": "choose another LUN, or take it out first with: vimraft real rm " + reason.name,
    }
    return make_advice(
        "conflict",
        f"{reason.kind} {reason.name!r} exists already",
        remedies.get(reason.kind, f"choose another name; see them all with: {_LISTING[reason.kind]}"),
        reason,
    )


def _invalid(reason: Invalid) -> Advice:
    field = reason.field.replace("_", " ")
    return make_advice("usage", f"{field} {reason.value!r} {reason.problem}", f"give another {field}", reason)


def _in_use(reason: InUse) -> Advice:
    users = listed(reason.users)
    remedies = {
        "real volume": "no more space is taken from it after: vimraft real exclude "
        f"{reason.name}; it can be removed once nothing lies on it",
        "storage": "remove its real volumes first (vimraft real rm STORAGE:LUN)",
        "manager": "delete its volumes, or give its sites to another manager, first",
        "site": "remove its storages and real volumes first, and take it out of the orders of other sites",
    }
    return make_advice(
        "conflict",
        f"{reason.kind} {reason.name!r} is in use by {users}"
        if users
        else f"{reason.kind} {reason.name!r} is in use",
        remedies.get(reason.kind, "end that use first"),
        reason,
    )


def _no_space(reason: NoSpace) -> Advice:
    sites = ", ".join(site.site for site in reason.sites)
    where = f"at sites {sites}" if len(reason.sites) != 1 else f"at site {sites}"
    if not reason.sites:
        where = "at any site"
    wanted = reason.volume_class
    needed = format_bytes(reason.needed_bytes, "up")
    if wanted not in reason.known_classes:
        classes = (
            f"classes there: {listed(reason.known_classes)}" if reason.known_classes else "no class there"
        )
        return make_advice(
            "rejected",
            f"no room for {needed} of class {wanted} {where}: "
            f"no active real volume has this class; {classes}",
            "choose one of the classes there, name further sites with --site, or add one with: "
            f"vimraft real add --storage ADDRESS --lun N --class {wanted}",
            reason,
        )
    short = format_bytes(max(reason.needed_bytes - reason.largest_bytes, 0), "up")
    message = f"no room for {needed} of class {wanted} {where}: {short} short; "
    if reason.largest_bytes <= 0:
        return make_advice(
            "rejected",
            f"{message}nothing of class {wanted} is free {where}",
            "delete a volume, name further sites with --site, or add a real volume with: vimraft real add",
            reason,
        )
    largest = format_bytes(reason.largest_bytes, "down")
    free = ", ".join(f"{format_bytes(site.free_bytes, 'down')} at {site.site}" for site in reason.sites)
    return make_advice(
        "rejected",
        f"{message}largest volume of class {wanted} that fits: {largest} {where}",
        f"ask for --size {size_argument(reason.largest_bytes)} or less (free: {free}), name further sites "
        "with --site, or add a real volume with: vimraft real add",
        reason,
    )


def _unsupported(reason: Unsupported) -> Advice:
    return make_advice(
        "rejected",
        f"this release cannot do this: {reason.what}",
        "ask without it, or use a newer release",
        reason,
    )


def _not_formed(reason: NotFormed) -> Advice:
    return make_advice(
        "unavailable",
        "the cluster has not been formed yet",
        "start a majority of the managers listed in raft.members; they form it by themselves",
        reason,
    )


def _outdated(reason: Outdated) -> Advice:
    return make_advice(
        "rejected",
        f"the tables hold something newer than this caller knows about {reason.kind} {reason.name!r}",
        "look at it again and repeat the request if it is still wanted",
        reason,
    )


def _malformed(reason: Malformed) -> Advice:
    return make_advice(
        "rejected",
        f"the managers could not read this request in the log: {reason.problem}",
        "run the same release at every site (vimraft status shows them)",
        reason,
    )


def _cannot_read(reason: CannotRead) -> Advice:
    return make_advice(
        "conflict",
        f"format level {reason.level} cannot be read by {listed(reason.managers)} (or nobody knows what runs "
        "there)",
        "start this release at every manager first; vimraft meta status shows what each of them reads",
        reason,
    )


def from_exception(error: BaseException) -> Advice:
    """Any failure in words: typed ones with their remedy, all others as internal."""
    match error:
        case Refused():
            return from_reason(error.reason)
        case PassedOn():
            return Advice(error.status, exit_code_of(error.reply.code), error.reply)
        case MembershipFault():
            return from_membership_fault(error)
        case CopyFault() | MoveFault():
            return from_copy_fault(error) if isinstance(error, CopyFault) else from_move_fault(error)
        case IndexOutOfReach():
            return from_out_of_reach(error)
        case LogError():
            return from_log_error(error)
        case BackendError():
            return _backend(error)
        case ManagerUnreachable():
            return make_advice(
                "unavailable",
                f"site manager {error.manager}, which must do this, does not answer: {error.what}",
                f"start it again (vimraft site run), or see what it says (vimraft status); {NOTHING_LOST}",
            )
        case DeviceProblem():
            return make_advice(
                "local",
                f"real volume {error.real} cannot be used: {error.message}",
                "correct the device or its URI; --force takes a device that carries other data, "
                "which is then overwritten",
            )
        case CallerError():
            return from_caller_error(error)
        case CodecError() | msgspec.MsgspecError():
            return make_advice(
                "usage", f"cannot read the request: {error}", "run the same release everywhere"
            )
        case TimeoutError():
            return unknown_outcome("the answer did not come in time")
        case OSError():
            return _os_error(error)
        case _:
            return make_advice(
                "internal",
                f"unexpected {type(error).__name__}: {error}",
                "this is a defect: please report it with the manager's log",
            )


def from_log_error(error: LogError) -> Advice:
    match error:
        case UnknownOutcome():
            return unknown_outcome(str(error) or "the deadline passed")
        case Unavailable():
            detail = f": {error}" if str(error) else ""
            return make_advice(
                "unavailable",
                f"the tables cannot be changed now{detail}",
                "a majority of the managers must run and reach each other (vimraft status); "
                f"{NOTHING_LOST}, try again",
            )
        case _:
            return unknown_outcome(f"{type(error).__name__}: {error}")


def _backend(error: BackendError) -> Advice:
    remedies = {
        "missing": "check that the device, file or server is there and may be opened, then try again",
        "label": "check that the URI names the right device; to take it into use with the loss of what it "
        "carries, repeat with --force",
        "io": "check the device (kernel log, cables, server); exclude it meanwhile: vimraft real exclude",
        "flush": "data written since its last flush may be lost: check the device before it is used again",
    }
    return make_advice("local", f"real volume cannot be used: {error}", remedies[error.kind])


def _os_error(error: OSError) -> Advice:
    name = f"{error.filename}: " if error.filename else ""
    return make_advice(
        "local",
        f"{name}{error.strerror or error}",
        "check the path, its permissions and the space left",
    )
