"""Signals by name and by number."""

from __future__ import annotations

import pytest

from collector.model.signals import signal_name, signal_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGSEGV", 11), ("ABRT", 6), ("9", 9), ("40", 40), ("RTMIN+3", 37), ("SIGRTMIN+30", 64), ("SIGRTMAX-1", 63)],
)
def test_signal_is_known_by_name_and_number(text: str, number: int) -> None:
    """As kill(1) takes them."""
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "SIGNOPE", "0", "999", "-9", "sigsegv", "SIG_DFL", "\u0661\u0661", "65", "RTMIN+31", "SEGV+1"]
)
def test_signal_that_does_not_exist_is_refused(text: str) -> None:
    """A typing error must not become a condition that never holds."""
    with pytest.raises(ValueError, match=r"\w"):
        signal_number(text)


def test_signal_name_counts_real_time_signals_from_the_first() -> None:
    """As kill(1) lists them; what is not a signal keeps its number."""
    assert [signal_name(number) for number in (11, 34, 40, 64, 99)] == [
        "SIGSEGV", "SIGRTMIN", "SIGRTMIN+6", "SIGRTMAX", "signal 99",
    ]  # fmt: skip
