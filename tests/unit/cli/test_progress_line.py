"""The line of a copy: bytes, of how many, how fast, and how long it will take."""

from __future__ import annotations

from collector.cli.progress_line import ProgressLine
from collector.runner.events import StepProgressed

MIB = 1 << 20


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def progressed(mib: int, total_mib: int | None = None, *, step: str = "segments", slowed: str = "") -> StepProgressed:
    total = None if total_mib is None else total_mib * MIB
    return StepProgressed(incident="i", step=step, size_bytes=mib * MIB, total_bytes=total, slowed=slowed)


def test_line_says_how_much_is_left_and_for_how_long() -> None:
    """As soon as it is known how fast it is."""
    clock = Clock()
    line = ProgressLine(clock)
    assert line.text(progressed(0, 400)) == "segments: 0 B of 400.0 MiB"
    clock.now_s += 2
    assert line.text(progressed(100, 400)) == "segments: 100.0 MiB of 400.0 MiB, 50.0 MiB/s, 6 s left"


def test_line_goes_by_the_last_seconds() -> None:
    """A copy yields to others: how fast it once was does not matter."""
    clock = Clock()
    line = ProgressLine(clock)
    line.text(progressed(0, 10_000))
    for second in range(1, 31):
        clock.now_s += 1
        text = line.text(progressed(5000 + 10 * second, 10_000))
    assert "10.0 MiB/s, 8 min left" in text


def test_line_without_a_total_makes_none_up() -> None:
    """Nor does it one that was exceeded: a segment that grew."""
    clock = Clock()
    line = ProgressLine(clock)
    line.text(progressed(0))
    clock.now_s += 1
    assert line.text(progressed(100)) == "segments: 100.0 MiB, 100.0 MiB/s"
    assert line.text(progressed(200, 150)) == "segments: 200.0 MiB, 200.0 MiB/s"


def test_line_says_why_the_copy_is_held_back() -> None:
    """Instead of a rate, which would be that of another state."""
    line = ProgressLine(Clock())
    assert line.text(progressed(1, 4, slowed="pause: severe")) == "segments: 1.0 MiB of 4.0 MiB, pause: severe"


def test_line_begins_anew_with_each_step() -> None:
    """The next step's rate is its own."""
    clock = Clock()
    line = ProgressLine(clock)
    line.text(progressed(900, 1000))
    clock.now_s += 1
    assert line.text(progressed(1, 10, step="logs")) == "logs: 1.0 MiB of 10.0 MiB"
