"""Which lines of a log a page shows: first those around the one that matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from collector.report.page_text import weight
from collector.report.story import LogLine

NEAR = 6
"""Lines before and after the one that matters that are not folded."""


class PageLines(NamedTuple):
    """Lines in order: those *near* what matters, and those before and after, which are folded."""

    earlier: tuple[LogLine, ...]
    near: tuple[LogLine, ...]
    later: tuple[LogLine, ...]
    left_out: int


def page_lines(found: Sequence[LogLine], *, most_bytes: int) -> PageLines:
    """Return the lines nearest to the last one that matters, else to the end, that take at most *most_bytes*."""
    if not found:
        return PageLines((), (), (), left_out=0)
    matter = [number for number, line in enumerate(found) if line.matters]
    focus = matter[-1] if matter else len(found) - 1
    first, last = focus, focus
    for number in sorted(range(len(found)), key=lambda number: abs(number - focus)):
        most_bytes -= weight(found[number])
        if most_bytes < 0:
            break
        first, last = min(first, number), max(last, number)
    start, end = max(first, focus - NEAR), min(last, focus + NEAR) + 1
    return PageLines(
        earlier=tuple(found[first:start]),
        near=tuple(found[start:end]),
        later=tuple(found[end : last + 1]),
        left_out=len(found) - (last + 1 - first),
    )
