"""Why a command was refused: data, not prose. vimraft.api.advice turns a reason into words.

May live here: frozen, tagged structs with exactly the facts that a remedy needs.
"""

from typing import Literal

from msgspec import Struct

Kind = Literal[
    "cluster", "manager", "site", "storage", "real volume", "virtual volume", "setting", "release", "client"
]


class NotFound(Struct, frozen=True, tag=True):
    kind: Kind
    name: str
    known: tuple[str, ...] = ()
    """What exists instead (bounded), to choose from."""


class Exists(Struct, frozen=True, tag=True):
    kind: Kind
    name: str


class Invalid(Struct, frozen=True, tag=True):
    field: str
    value: str
    problem: str
    """Completes '<field> <value> …', for example 'is not a multiple of 512 bytes'."""


class InUse(Struct, frozen=True, tag=True):
    kind: Kind
    name: str
    users: tuple[str, ...]


class SiteFree(Struct, frozen=True):
    site: str
    free_bytes: int


class NoSpace(Struct, frozen=True, tag=True):
    volume_class: str
    needed_bytes: int
    largest_bytes: int
    """The largest volume of this class that fits at these sites."""
    sites: tuple[SiteFree, ...]
    known_classes: tuple[str, ...]
    """Classes that have active real volumes at these sites."""


class Unsupported(Struct, frozen=True, tag=True):
    what: str


class NotFormed(Struct, frozen=True, tag=True):
    """The cluster has not been formed yet."""


class Outdated(Struct, frozen=True, tag=True):
    """The sender is not (any more) who the command says: other incarnation, older sequence."""

    kind: Kind
    name: str


class Malformed(Struct, frozen=True, tag=True):
    """The bytes in the log are no Request of a version known here."""

    problem: str


class CannotRead(Struct, frozen=True, tag=True):
    """Managers run a release that cannot read the level asked for (or nobody knows what they run)."""

    level: int
    managers: tuple[str, ...]


Reason = (
    NotFound
    | Exists
    | Invalid
    | InUse
    | NoSpace
    | Unsupported
    | NotFormed
    | Outdated
    | Malformed
    | CannotRead
)
