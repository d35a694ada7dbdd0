"""Why a command was refused: data, not prose. vimraft.api.advice turns a reason into words.

May live here: frozen, tagged structs with exactly the facts that a remedy needs.
"""

from typing import Literal

from msgspec import Struct

Kind = Literal[
    "cluster",
    "manager",
    "site",
    "storage",
    "real volume",
    "virtual volume",
    "setting",
    "release",
    "client",
    "copy",
    "trashed volume",
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


class Conflict(Struct, frozen=True, tag=True):
    """The volume moved on: it has another epoch or owner than the command was made for."""

    volume: str
    epoch: int
    owner: str


class SoleHolder(Struct, frozen=True, tag=True):
    """Every in-sync segment lies at the owner's own sites: nobody else could serve, and the owner may be
    serving although nobody hears of it."""

    volume: str
    owner: str


class Renewed(Struct, frozen=True, tag=True):
    """The owner is alive: its lease is another one than the one that was seen to run out."""

    manager: str
    incarnation: str
    counter: int


class LastCopy(Struct, frozen=True, tag=True):
    """No copy in sync would be left of the volumes."""

    volumes: tuple[str, ...]


class CopyState(Struct, frozen=True, tag=True):
    """The copy is not in a state in which this can be done to it."""

    volume: str
    replica: str
    state: str


class OtherBoot(Struct, frozen=True, tag=True):
    """The stores of a manager are in another boot (empty: in none that the tables know)."""

    manager: str
    boot: str


class NoSpaceForCopy(Struct, frozen=True, tag=True):
    """Copies share no real volume, and no site unless asked: `space` is what is left for this one."""

    copy: int
    """Counted from 1."""
    copies: int
    space: NoSpace


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
    | Conflict
    | SoleHolder
    | Renewed
    | LastCopy
    | CopyState
    | OtherBoot
    | NoSpaceForCopy
)
