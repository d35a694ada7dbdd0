"""The frame of an advice: codes, HTTP statuses, exit codes.

May live here: the tables of codes, the `Advice` struct and what vimraft.api.advice and
vimraft.api.advice_caller share to write one.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from vimraft.api.schema import ErrorReply
from vimraft.core.reasons import Reason

EXIT_CODES: Mapping[str, tuple[int, str]] = {
    "done": (0, "done"),
    "internal": (1, "unexpected: a defect"),
    "usage": (2, "usage: a wrong option, size, name, token or context file"),
    "token": (2, "usage: a wrong option, size, name, token or context file"),
    "rejected": (3, "refused by the tables: no space, exists already, in use …"),
    "conflict": (3, "refused by the tables: no space, exists already, in use …"),
    "not_found": (4, "not found"),
    "unavailable": (5, "unavailable: no quorum, or no manager can be reached; nothing was changed"),
    "unknown_outcome": (6, "outcome unknown: the change may or may not have been made"),
    "local": (7, "a local tool or a device failed"),
}
"""Code of an ErrorReply → exit code of the CLI and what it means."""

STATUS: Mapping[str, int] = {
    "internal": 500,
    "usage": 400,
    "token": 401,
    "rejected": 409,
    "conflict": 409,
    "not_found": 404,
    "unavailable": 503,
    "unknown_outcome": 504,
    "local": 500,
}
MAX_LISTED = 8
"""Names listed in one message."""


class Advice(Struct, frozen=True):
    status: int
    exit_code: int
    reply: ErrorReply


def exit_code_of(code: str) -> int:
    """For an ErrorReply from a manager of another release, too: an unknown code is unexpected."""
    return EXIT_CODES.get(code, EXIT_CODES["internal"])[0]


def exit_code_lines() -> tuple[str, ...]:
    """`0 done`, `1 unexpected: …`, one line each, for the help text."""
    return tuple(f"{number} {meaning}" for number, meaning in sorted(dict(EXIT_CODES.values()).items()))


def make_advice(code: str, message: str, remedy: str, reason: Reason | None = None) -> Advice:
    facts = {} if reason is None else msgspec.to_builtins(reason)
    reply = ErrorReply(code=code, message=message, remedy=remedy, reason=facts)
    return Advice(status=STATUS[code], exit_code=exit_code_of(code), reply=reply)


def listed(names: Iterable[str]) -> str:
    found = list(names)
    shown = ", ".join(found[:MAX_LISTED])
    return shown if len(found) <= MAX_LISTED else f"{shown} and {len(found) - MAX_LISTED} more"


NOTHING_LOST = "nothing was changed"


def unknown_outcome(what: str) -> Advice:
    return make_advice(
        "unknown_outcome",
        f"outcome unknown: {what}; the change may or may not have been made",
        "look before you repeat it (vimraft history, vimraft vol ls); a repetition under the same "
        "X-Request-Id is harmless",
    )
