"""Sizes that people write and read."""

from hypothesis import given
from hypothesis import strategies as st

from vimraft.api.caller_errors import BadSize
from vimraft.api.units import format_bytes, format_count, parse_size, size_argument
from vimraft.core.ids import MAX_VOLUME_BYTES, SECTOR_BYTES

UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
sectors = st.integers(min_value=1, max_value=MAX_VOLUME_BYTES // SECTOR_BYTES)


@given(sectors)
def test_every_size_has_a_text_that_reads_as_exactly_it(count: int) -> None:
    size_bytes = count * SECTOR_BYTES
    assert parse_size(size_argument(size_bytes)) == size_bytes
    assert parse_size(str(size_bytes)) == size_bytes


@given(st.integers(min_value=1, max_value=1023), st.sampled_from("KMGTP"), st.sampled_from(["", "i", "iB"]))
def test_units_are_binary_in_any_case(number: int, unit: str, tail: str) -> None:
    if number * 1024 % SECTOR_BYTES == 0:
        expected = number * 1024 ** ("KMGTP".index(unit) + 1)
        assert parse_size(f"{number}{unit}{tail}") == expected
        assert parse_size(f"{number} {unit.lower()}{tail}") == expected


@given(st.text(max_size=50))
def test_any_text_is_a_positive_sector_multiple_or_a_clear_error(text: str) -> None:
    size_bytes, problem = read(text)
    assert (size_bytes is None) == bool(problem)
    if size_bytes is not None:
        assert 0 < size_bytes <= MAX_VOLUME_BYTES
        assert size_bytes % SECTOR_BYTES == 0


def read(text: str) -> tuple[int | None, str]:
    try:
        return parse_size(text), ""
    except BadSize as error:
        return None, error.problem


@given(st.integers(min_value=0, max_value=1 << 64))
def test_shown_sizes_round_the_way_that_is_asked_for(size_bytes: int) -> None:
    def value(text: str) -> float:
        number, unit = text.split(" ")
        return float(number) * 1024 ** (UNITS.index(unit))

    assert value(format_bytes(size_bytes, "down")) <= size_bytes * (1 + 1e-12)
    assert value(format_bytes(size_bytes, "up")) >= size_bytes * (1 - 1e-12)
    assert len(format_bytes(size_bytes)) <= len("16384 EiB")


@given(st.floats(min_value=0, max_value=1e12))
def test_counts_stay_within_a_column_of_five(value: float) -> None:
    assert len(format_count(value)) <= 5
