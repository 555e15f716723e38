"""What of a buffer is written, and what is left as a hole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.copying.buffers import Region
from collector.copying.zero_pages import data_runs

PAGE = 4096
(BUFFER,) = Region(16 * PAGE).split(1, 16 * PAGE)
PAGES = {"-": bytes(PAGE), "x": b"x" * PAGE, "l": bytes(PAGE - 1) + b"l"}  # l: but for the last byte it is zero


def runs(pages: str, used: int | None = None, block: int = PAGE) -> list[tuple[int, int]]:
    data = b"".join(map(PAGES.__getitem__, pages))
    BUFFER.view[: len(data)] = data
    found = data_runs(BUFFER, len(data) if used is None else used, block)
    return [(low // PAGE, -(-high // PAGE)) for low, high in found]


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ("xxxx", [(0, 4)]),
        ("----", []),
        ("x---", [(0, 1)]),
        ("---x", [(3, 4)]),
        ("-xx--x-", [(1, 3), (5, 6)]),
        ("x-x--x", [(0, 3), (5, 6)]),
        ("l", [(0, 1)]),
        ("--l--ll-", [(2, 3), (5, 7)]),
    ],
)
def test_runs_are_the_pages_with_data(pages: str, expected: list[tuple[int, int]]) -> None:
    """A hole of one page costs as much as another write, and is written; one byte makes a page data."""
    assert runs(pages) == expected


def test_runs_are_of_whole_blocks_where_the_disk_needs_larger_ones() -> None:
    assert runs("-----x--xx------", block=4 * PAGE) == [(4, 12)]


def test_last_run_ends_with_the_data() -> None:
    PAGES["e"] = b"e" * 10 + bytes(PAGE - 10)
    runs("-----e")
    assert list(data_runs(BUFFER, 5 * PAGE + 10, PAGE)) == [(5 * PAGE, 5 * PAGE + 10)]


@given(st.text(alphabet="-xl", min_size=1, max_size=16))
def test_runs_leave_out_nothing_but_zeros(pages: str) -> None:
    found = runs(pages)
    written = {page for low, high in found for page in range(low, high)}
    assert {number for number, page in enumerate(pages) if page != "-"} <= written
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))
