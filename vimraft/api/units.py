"""Sizes between people and bytes: `1.5G` → 1610612736 and back.

May live here: parsing and formatting of sizes, ages and rates, without any terminal or network.
Units are binary everywhere (1M = 1 MiB = 1,048,576 bytes), as nbdkit and QEMU read them.
"""

import re
from fractions import Fraction
from typing import Literal

from vimraft.api.caller_errors import BadSize
from vimraft.core.ids import MAX_VOLUME_BYTES, SECTOR_BYTES

UNITS = ("", "K", "M", "G", "T", "P", "E")
_SIZE = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)", re.ASCII)
MAX_SIZE_CHARS = 40
"""Longer texts are no sizes; also bounds the arithmetic."""

Rounding = Literal["nearest", "down", "up"]


def parse_size(text: str) -> int:
    """Bytes, a positive multiple of the 512-byte sector. Raises BadSize, which names the problem."""
    cleaned = text.strip()
    match = _SIZE.fullmatch(cleaned)
    if match is None or len(cleaned) > MAX_SIZE_CHARS:
        raise BadSize(text, "is not a size")
    sign, number, unit = match.groups()
    exponent = _exponent(text, unit)
    value = Fraction(number) * 1024**exponent
    if sign == "-":
        raise BadSize(text, "is negative")
    if value == 0:
        raise BadSize(text, "is zero")
    if value > MAX_VOLUME_BYTES:
        raise BadSize(text, "is more than 8 EiB less one sector, the most that NBD can address")
    if value % SECTOR_BYTES != 0:
        below = int(value // SECTOR_BYTES) * SECTOR_BYTES
        nearest = f"{below} or {below + SECTOR_BYTES}" if below else f"{SECTOR_BYTES}"
        raise BadSize(text, f"is not a multiple of {SECTOR_BYTES} bytes (nearest: {nearest})")
    return int(value)


def _exponent(text: str, unit: str) -> int:
    letter, rest = unit[:1].upper(), unit[1:].lower()
    if letter in ("", "B") and not rest:
        return 0
    if letter not in UNITS:
        raise BadSize(text, f"has an unknown unit {unit!r}")
    if rest == "b":
        raise BadSize(text, f"is ambiguous: {unit} may mean 1000s or 1024s; write {letter}iB")
    if rest not in ("", "i", "ib"):
        raise BadSize(text, f"has an unknown unit {unit!r}")
    return UNITS.index(letter)


def size_argument(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads as exactly `size_bytes`."""
    for exponent in range(len(UNITS) - 1, 0, -1):
        unit_bytes = 1024**exponent
        if size_bytes >= unit_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{UNITS[exponent]}"
    return str(size_bytes)


def format_bytes(size_bytes: float, rounding: Rounding = "nearest") -> str:
    """`64 MiB`, `1.2 TiB`, `812 GiB`: up to three digits. Free space is shown rounded down."""
    value, exponent = Fraction(size_bytes), 0
    while value >= 1024 and exponent < len(UNITS) - 1:
        value, exponent = value / 1024, exponent + 1
    if exponent == 0:
        return f"{int(value)} B"
    steps = 1 if value >= 100 else 10
    scaled = value * steps
    whole = scaled.numerator // scaled.denominator
    exact = whole == scaled
    if rounding == "nearest":
        whole = round(scaled)
    elif rounding == "up" and not exact:
        whole += 1
    if whole >= 1024 * steps and exponent < len(UNITS) - 1:
        return f"1.0 {UNITS[exponent + 1]}iB"
    shown = str(whole) if steps == 1 else f"{whole // 10}.{whole % 10}"
    if exact and shown.endswith(".0"):
        shown = shown[:-2]
    return f"{shown} {UNITS[exponent]}iB"


def format_count(value: float) -> str:
    """`0`, `950`, `1.2k`, `12k`, `3.4M`: at most four characters up to a billion."""
    for divisor, suffix in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if value >= divisor:
            scaled = value / divisor
            return f"{scaled:.1f}{suffix}" if scaled < 9.95 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def format_latency(microseconds: float) -> str:
    if microseconds <= 0:
        return "-"
    if microseconds < 1_000:
        return f"{microseconds:.0f} µs"
    if microseconds < 1_000_000:
        milliseconds = microseconds / 1_000
        return f"{milliseconds:.1f} ms" if milliseconds < 99.95 else f"{milliseconds:.0f} ms"
    return f"{microseconds / 1_000_000:.1f} s"


def format_age(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds > 0 else "0 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.0f} h"
    return f"{seconds / 86_400:.0f} d"
