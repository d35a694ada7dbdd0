"""The HTTP API's bodies about copies and owners of volumes.

May live here: frozen structs only, as in `schema`, which imports these.
"""

from msgspec import Struct

from vimraft.core.tables import ReadPolicy


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
    writes: int = 0
    reads: int = 0
    """For clients, since this owner began to serve."""
    reads_local: int = 0
    """Those of them that a store of the owner's sites served."""
    reads_remote: int = 0
    """Those that another manager's store served."""
    reads_copying: int = 0
    """Beside these: to bring other copies back into step."""
    reads_failed: int = 0
    """They went to another copy, or again to this one."""
    reads_busy: int = 0
    """It said "use the other copy"."""
    in_flight: int = 0
    latency_us: int = 0
    """Of reads, as the owner sees them."""


class VolumeProgress(Struct, frozen=True):
    """A volume with copies, as its owner last said."""

    epoch: int
    takeover: str
    """What a new owner does before it serves; `over`: it serves."""
    copies: tuple[CopyProgress, ...] = ()
    switches: int = 0
    """How often reads left the copy that they went to."""


class HoldReport(Struct, frozen=True):
    """How long changes of a volume's map kept its I/O waiting, at one site or at that with the longest wait,
    since its export began."""

    epoch: int = 0
    """That the last one brought."""
    changes: int = 0
    last_ms: float = 0.0
    longest_ms: float = 0.0
    p99_ms: float = 0.0
    """Of the last 256."""


class ReadPolicyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    policy: ReadPolicy


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
