"""The HTTP API's bodies about comparing the copies of a volume.

May live here: frozen structs only, as in `schema`, which imports these.
"""

from msgspec import Struct

from vimraft.data.feed import VerifyState
from vimraft.protocol.verify import Tally


class VerifyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    repair: bool = False
    """Make copies equal where they differ."""
    source: str = ""
    """Local name of the copy that is right; empty: what most of three copies or more hold."""


class CopyCompared(Struct, frozen=True):
    name: str
    sites: tuple[str, ...]
    state: str
    compared: int
    """Regions of it; nothing is said of the others."""


class CopyDifference(Struct, frozen=True):
    first_byte: int
    last_byte: int
    groups: tuple[tuple[str, ...], ...]
    """Copies that hold the same, the largest group first."""
    repaired: bool


class VerifyReport(Struct, frozen=True):
    """Of the regions that were looked at so far, or of all of them when the job is done."""

    volume: str
    region_bytes: int
    regions: int
    """Of the volume."""
    done: int
    """Looked at."""
    compared: int
    """In all copies that were in sync then."""
    differing: int
    repaired: int
    """Of those that differed."""
    skipped: int
    """Not compared, or not in all of them."""
    clean: bool
    """Done, and all copies in sync are known to be equal (again)."""
    copies: tuple[CopyCompared, ...]
    differences: tuple[CopyDifference, ...]
    """The first ones."""
    why: str = ""
    """Why a region was skipped, or not repaired, last."""


class VerifyStep(Struct, frozen=True, forbid_unknown_fields=True):
    """From the manager that runs the job to the one that owns the volume: begin, go on, say how far."""

    id: str
    tally: Tally
    repair: bool = False
    source: str = ""
    stop: bool = False


class VerifyStepReply(Struct, frozen=True):
    state: VerifyState
    tally: Tally
    message: str = ""
