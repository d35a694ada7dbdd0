"""The HTTP API's bodies about copies and owners of volumes.

May live here: frozen structs only, as in `schema`, which imports these.
"""

from msgspec import Struct


class CopyProgress(Struct, frozen=True):
    """One copy, as the owner of the volume last said."""

    name: str
    phase: str = ""
    """Of its resync; empty: none runs."""
    left_bytes: int = 0
    total_bytes: int = 0
    """Of this resync."""
    copied_bytes: int = 0
    rate_bytes_s: float = 0.0
    """Over the last seconds."""
    eta_seconds: float | None = None
    """At that rate; None: not known."""
    full: bool = False
    """All of it is copied, not only what it missed."""
    reads: int = 0
    """Served by it, since the owner's export began."""
    writes: int = 0


class VolumeProgress(Struct, frozen=True):
    """A volume with copies, as its owner last said."""

    epoch: int
    takeover: str
    """What a new owner does before it serves; `over`: it serves."""
    hold_ms: float
    """How long I/O waited for the last change of the map."""
    longest_hold_ms: float
    copies: tuple[CopyProgress, ...] = ()


class AddCopyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    sites: tuple[str, ...] = ()
    """In priority order; none: those of the volume."""
    volume_class: str = ""
    """Empty: that of the volume."""
    same_site: bool = False
    """It may lie at a site where another copy lies."""


class PauseCopyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    paused: bool


class MoveOwnerRequest(Struct, frozen=True, forbid_unknown_fields=True):
    manager: str


class ForceLostRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The sites of a manager are lost for good, and cannot write any more."""

    name: str
    """Of the manager, or of one of its sites."""
    accept_loss: bool = False
    """Volumes without another copy in sync go on with the best of the others: what it missed is lost."""
