"""Sizes, durations, shares, rates."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64MiB", 64 << 20),
        ("1GB", 10**9),
        ("1 kB", 1000),
        ("1.5GiB", 3 << 29),
        ("2.5kB", 2500),
    ],
)
def test_units_size_is_read(text: str, size: int) -> None:
    """Binary and decimal units are what their names say."""
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "64M", "64mib", "-1", "0x10", "010", "1e3", "1_000", "1,5GiB", "1.5", "٣MiB", "1GiB\n"]
)
def test_units_size_is_refused(text: str) -> None:
    """Ambiguous text is refused."""
    with pytest.raises(ValueError, match=r"\w"):
        units.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("250ms", 0.25), ("1h30m", 5400.0), ("14d", 1_209_600.0), ("0s", 0.0), ("2 min", 120.0)],
)
def test_units_duration_is_read(text: str, seconds: float) -> None:
    """Durations are seconds."""
    assert units.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1:30", "5m30", "2weeks", "-1s", "1S", "m", "1e9s", "999999999999d"])
def test_units_duration_is_refused(text: str) -> None:
    """No sexagesimal numbers, no guesses."""
    with pytest.raises(ValueError, match=r"\w"):
        units.parse_seconds(text)


@given(st.integers(0, units.MAX_BYTES))
def test_units_size_survives_writing_and_reading(size: int) -> None:
    """What `config show` writes is what was in force."""
    assert units.parse_bytes(units.format_bytes(size)) == size


@given(st.integers(0, 10**12).map(lambda n: n / 1000))
def test_units_duration_survives_writing_and_reading(seconds: float) -> None:
    """The same for durations, to the millisecond."""
    assert units.parse_seconds(units.format_seconds(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.text(max_size=20))
def test_units_any_text_is_a_value_or_a_sentence(text: str) -> None:
    """Whatever is written, the answer is a value or a `ValueError`."""
    for parse in (units.parse_bytes, units.parse_seconds, units.parse_reserve, units.parse_rate):
        with contextlib.suppress(ValueError):
            parse(text)


def test_units_rate_is_a_word_or_bytes_per_second() -> None:
    """What the copy engine takes, and how it is shown again."""
    for text, rate in (("adaptive", "adaptive"), ("200MiB/s", 200 << 20)):
        assert units.parse_rate(text) == rate
        assert units.format_rate(rate) == text


def test_units_reserve_is_a_share_or_a_size() -> None:
    """A share is taken of the file system, a size is itself."""
    assert units.parse_reserve("5%").bytes_of(200) == 10
    assert units.parse_reserve("20GiB").bytes_of(200) == 20 << 30


def test_number_has_its_noun_in_the_right_form() -> None:
    assert [units.counted(count, "artifact") for count in (0, 1, 2)] == ["0 artifacts", "1 artifact", "2 artifacts"]
