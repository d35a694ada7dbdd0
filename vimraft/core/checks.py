"""Checks of what a command carries, before anything changes: each returns a Reason or None.

May live here: shape and bounds of single values, lookups that end in NotFound, and the named bounds
themselves. Rules that need several tables belong to the `apply_*` module of their subject.
Keeps INV-9: whatever is refused is named, and its value is shown bounded and printable.
"""

from collections.abc import Iterable, Mapping

from vimraft.core import levels
from vimraft.core.ids import (
    LABEL_BYTES,
    MAX_LUN,
    MAX_NAME_CHARS,
    MAX_VOLUME_BYTES,
    SECTOR_BYTES,
    ManagerName,
    SiteName,
    name_problem,
)
from vimraft.core.reasons import Invalid, Kind, NotFound, Reason, Unsupported
from vimraft.core.tables import Settings, State

MAX_SHOWN_CHARS = 80
"""Longest value repeated in a refusal."""
MAX_LISTED = 16
"""Most names listed in a refusal."""
MAX_TEXT_CHARS = 200
"""Longest reason, `who` and the like; longer ones are cut, since losing the tail harms nobody."""
MAX_URI_CHARS = 1_024
MAX_ADDRESS_CHARS = 255
MAX_MANAGERS = 64
MAX_SITES = 256
MAX_STORAGES = 4_096
MAX_REALS = 16_384
MAX_VOLUMES = 16_384
MAX_VOLUME_SEGMENTS = 1 << 20
"""Segments of one volume: keeps a map within what one message to the data plane may hold."""
MIN_UNIT_BYTES = LABEL_BYTES
MAX_UNIT_BYTES = 1 << 40

SETTING_BOUNDS: Mapping[str, tuple[int, int]] = {
    "unit_bytes": (MIN_UNIT_BYTES, MAX_UNIT_BYTES),
    "lease_ms": (500, 60_000),
    "io_timeout_ms": (1_000, 600_000),
    "history_changes": (0, 100_000),
    "trash_keep_h": (0, 87_600),
    "read_threshold": (1, 1_024),
    "read_hysteresis_percent": (0, 1_000),
}
SETTINGS_SINCE: Mapping[str, int] = {
    "trash_keep_h": levels.COPIES,
    "read_threshold": levels.COPIES,
    "read_hysteresis_percent": levels.COPIES,
}
"""The level that brought a setting, where it was not the first: below it all releases refuse it alike."""


def shown(value: str) -> str:
    """`value` as a refusal may repeat it: printable, at most MAX_SHOWN_CHARS and an ellipsis."""
    cut = value if len(value) <= MAX_SHOWN_CHARS else value[:MAX_SHOWN_CHARS] + "…"
    return cut if cut.isprintable() else ascii(cut)


def clipped(text: str) -> str:
    """Free text as the tables keep it: printable and at most MAX_TEXT_CHARS."""
    if len(text) <= MAX_TEXT_CHARS and text.isprintable():
        return text
    printable = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return printable if len(printable) <= MAX_TEXT_CHARS else printable[: MAX_TEXT_CHARS - 1] + "…"


def listed(names: Iterable[object]) -> tuple[str, ...]:
    """The first MAX_LISTED names in order, each as `shown`."""
    return tuple([shown(name) for name in sorted(map(str, names))[:MAX_LISTED]])


def name_invalid(field: str, name: str) -> Invalid | None:
    problem = name_problem(name)
    return None if problem is None else Invalid(field, shown(name), problem)


def text_invalid(field: str, text: str, limit_chars: int, *, may_be_empty: bool = False) -> Invalid | None:
    if not text and not may_be_empty:
        return Invalid(field, "", "is empty")
    if len(text) > limit_chars:
        return Invalid(field, shown(text), f"is longer than {limit_chars} characters")
    if not text.isprintable():
        return Invalid(field, shown(text), "holds characters that cannot be printed")
    if text != text.strip():
        return Invalid(field, ascii(shown(text)), "begins or ends with a space")
    return None


def class_invalid(volume_class: str) -> Invalid | None:
    """A class is free text, but short and printable."""
    return text_invalid("class", volume_class, MAX_NAME_CHARS)


def address_invalid(field: str, address: str) -> Invalid | None:
    """`host:port`; who listens there is not for the tables to know."""
    problem = text_invalid(field, address, MAX_ADDRESS_CHARS)
    if problem is not None:
        return problem
    host, _, port = address.rpartition(":")
    if not host or " " in host or not (port.isascii() and port.isdigit()):
        return Invalid(field, shown(address), "is not HOST:PORT")
    if len(port) > 5 or not 1 <= int(port) <= 65_535:
        return Invalid(field, shown(address), "has a port outside 1 … 65535")
    return None


def lun_invalid(lun: int) -> Invalid | None:
    return None if 0 <= lun <= MAX_LUN else Invalid("LUN", str(lun), f"is outside 0 … {MAX_LUN}")


def size_invalid(size_sectors: int) -> Invalid | None:
    """Sizes travel in sectors, so being a multiple of 512 bytes is for whoever reads bytes to check."""
    value = f"{size_sectors * SECTOR_BYTES} bytes"
    if size_sectors <= 0:
        return Invalid("size", value, f"is not positive: the smallest volume has {SECTOR_BYTES} bytes")
    if size_sectors * SECTOR_BYTES > MAX_VOLUME_BYTES:
        return Invalid("size", value, f"is more than the largest volume, {MAX_VOLUME_BYTES} bytes")
    return None


def capacity_invalid(capacity_units: int, unit_bytes: int) -> Invalid | None:
    """Unit 0 is the label: `capacity_units` more follow, and all of it must be addressable."""
    if capacity_units < 1:
        return Invalid(
            "capacity", f"{capacity_units} units", f"leaves no unit of {unit_bytes} bytes after the label"
        )
    if (capacity_units + 1) * unit_bytes > MAX_VOLUME_BYTES:
        return Invalid("capacity", f"{capacity_units} units", f"is more than {MAX_VOLUME_BYTES} bytes")
    return None


def setting_invalid(name: str, value: int, level: int) -> Reason | None:
    known = {n: b for n, b in SETTING_BOUNDS.items() if SETTINGS_SINCE.get(n, levels.FIRST) <= level}
    bounds = known.get(name)
    if bounds is None:
        return NotFound("setting", shown(name), tuple(known))
    low, high = bounds
    if not low <= value <= high:
        return Invalid(name, str(value), f"is outside {low} … {high}")
    if name == "unit_bytes" and value & (value - 1):
        return Invalid(name, str(value), "is not a power of two")
    return None


def settings_invalid(settings: Settings) -> Reason | None:
    for name in SETTING_BOUNDS:
        level = SETTINGS_SINCE.get(name, levels.FIRST)  # bounds alone: a default says nothing about levels
        problem = setting_invalid(name, getattr(settings, name), level)
        if problem is not None:
            return problem
    return None


def full(kind: Kind, count: int, limit: int) -> Unsupported | None:
    """`count` entries are there already."""
    return None if count < limit else Unsupported(f"more than {limit} {kind}s")


def manager_missing(state: State, name: ManagerName) -> NotFound | None:
    return None if name in state.managers else NotFound("manager", shown(name), listed(state.managers.keys()))


def site_missing(state: State, name: SiteName) -> NotFound | None:
    return None if name in state.sites else NotFound("site", shown(name), listed(state.sites.keys()))


def sites_missing(state: State, field: str, sites: tuple[SiteName, ...]) -> Reason | None:
    """Every site of a list exists, once."""
    if len(sites) > MAX_SITES:
        return Invalid(field, f"{len(sites)} sites", f"lists more than {MAX_SITES} sites")
    seen: set[SiteName] = set()
    for site in sites:
        missing = site_missing(state, site)
        if missing is not None:
            return missing
        if site in seen:
            return Invalid(field, shown(site), "is listed twice")
        seen.add(site)
    return None
