"""Sizes as people write them."""

import pytest

from vimraft.api.caller_errors import BadSize
from vimraft.api.units import format_age, format_bytes, format_latency, parse_size, size_argument


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64M", 64 << 20),
        ("1.5G", 3 << 29),
        ("1TiB", 1 << 40),
        (".5k", 512),
        ("512", 512),
        ("1024B", 1024),
        (" 2 GiB ", 2 << 30),
        ("9223372036854775296", (1 << 63) - 512),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a size"),
        ("lots", "is not a size"),
        ("1e9", "is not a size"),
        ("0x10", "is not a size"),
        ("64M64", "is not a size"),
        ("0", "is zero"),
        ("0.0G", "is zero"),
        ("-5G", "is negative"),
        ("64MB", "ambiguous"),
        ("64X", "unknown unit 'X'"),
        ("64Mega", "unknown unit"),
        ("8E", "more than 8 EiB less one sector"),
        ("1000", "not a multiple of 512 bytes (nearest: 512 or 1024)"),
        ("1", "(nearest: 512)"),
        ("١K", "is not a size"),
        ("9" * 41, "is not a size"),
    ],
)
def test_wrong_sizes_say_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(BadSize) as caught:
        parse_size(text)
    assert problem in caught.value.problem


def test_free_space_is_rounded_down_and_shortage_up() -> None:
    size_bytes = int(1.29 * (1 << 40))
    assert format_bytes(size_bytes, "down") == "1.2 TiB"
    assert format_bytes(size_bytes, "up") == "1.3 TiB"
    assert format_bytes((1 << 40) - 1) == "1.0 TiB"
    assert format_bytes(64 << 20, "up") == "64 MiB"
    assert format_bytes(812 << 30) == "812 GiB"
    assert format_bytes(17) == "17 B"


def test_the_size_that_fits_is_offered_exactly() -> None:
    assert size_argument(1000 << 30) == "1000G"
    assert size_argument((1 << 30) + (1 << 20)) == "1025M"


def test_times_keep_to_few_characters() -> None:
    assert [format_latency(us) for us in (0, 184, 1520, 99_960, 2.5e6)] == [
        "-", "184 µs", "1.5 ms", "100 ms", "2.5 s",
    ]  # fmt: skip
    assert [format_age(s) for s in (0, 0.42, 12, 300, 9000, 200_000)] == [
        "0 s", "0.4 s", "12 s", "5 min", "2 h", "2 d",
    ]  # fmt: skip
