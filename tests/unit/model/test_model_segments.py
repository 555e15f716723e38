from __future__ import annotations

import pytest

from collector.model.segments import Candidate, Order, SegmentLimits, matches, plan, rank

NO_LIMITS = SegmentLimits(max_each=None, max_total=None)


def candidate(name: str, *, rank: int = 1, data: int = 10, mtime: int = 0, gone: str = "") -> Candidate:
    return Candidate(name=name, rank=rank, why="", size_bytes=data, data_bytes=data, mtime_ns=mtime, gone=gone)


def taken(candidates: list[Candidate], order: Order = Order.SMALLEST, limits: SegmentLimits = NO_LIMITS) -> list[str]:
    return [row.name for _, row in plan(candidates, order=order, limits=limits) if row.artifact]


def test_plan_takes_the_crashs_own_first_then_glob_by_glob() -> None:
    """The order of the file is the order of importance."""
    found = [candidate("b", rank=2, data=1), candidate("a", rank=1, data=5), candidate("own", rank=0, data=9)]
    assert taken(found) == ["own", "a", "b"]


@pytest.mark.parametrize(
    ("order", "names"),
    [(Order.SMALLEST, ["s", "m", "l"]), (Order.LARGEST, ["l", "m", "s"]), (Order.NEWEST, ["m", "l", "s"])],
)
def test_plan_orders_within_a_rank(order: Order, names: list[str]) -> None:
    """By data or by age."""
    found = [candidate("l", data=9, mtime=2), candidate("s", data=1, mtime=1), candidate("m", data=5, mtime=3)]
    assert taken(found, order) == names


def test_plan_skips_what_does_not_fit_and_says_so() -> None:
    """Smaller ones after it may still fit."""
    found = [candidate("a", rank=0, data=6), candidate("b", rank=1, data=7), candidate("c", rank=2, data=4)]
    rows = [row for _, row in plan(found, order=Order.SMALLEST, limits=SegmentLimits(max_each=None, max_total=10))]
    assert [row.artifact for row in rows] == ["segments/0001", "", "segments/0002"]
    assert rows[1].not_taken == "its 7 bytes exceed the 4 left of max_total"


def test_plan_cuts_segments_above_the_limit() -> None:
    """The beginning is better than nothing; only a segment that is cut has a limit."""
    rows = [row for _, row in plan([candidate("a", data=9), candidate("b", data=5)], order=Order.SMALLEST,
                                   limits=SegmentLimits(max_each=5, max_total=10))]  # fmt: skip
    assert [(row.name, row.artifact, row.limit_bytes) for row in rows] == [
        ("b", "segments/0001", None),
        ("a", "segments/0002", 5),
    ]


def test_plan_lists_what_is_gone_and_spends_nothing_on_it() -> None:
    """A name from the core without a file is listed."""
    found = [candidate("gone", rank=0, data=10, gone="deleted"), candidate("here", rank=0, data=10)]
    rows = [row for _, row in plan(found, order=Order.LARGEST, limits=SegmentLimits(max_each=None, max_total=10))]
    assert [(row.name, row.artifact, row.not_taken) for row in rows] == [
        ("gone", "", "deleted"),
        ("here", "segments/0001", ""),
    ]


def test_plan_names_artifacts_by_number_whatever_the_segments_are_called() -> None:
    """A name that an attacker chose never forms a path; in the record it is escaped."""
    rows = plan([candidate("../../etc/\x1b[2J"), candidate("\udcff")], order=Order.SMALLEST, limits=NO_LIMITS)
    assert [row.artifact for _, row in rows] == ["segments/0001", "segments/0002"]
    assert {row.name for _, row in rows} == {"../../etc/\\x1b[2J", "\\xff"}


@pytest.mark.parametrize(
    ("name", "glob", "expected"),
    [
        ("engine.1", "engine.*", True),
        ("sub/engine.1", "engine.*", True),
        ("sub/engine.1", "sub/engine.*", True),
        ("other/engine.1", "sub/engine.*", False),
        ("Engine.1", "engine.*", False),
        ("engine", "engine.*", False),
    ],
)
def test_globs_match_the_path_or_without_a_slash_the_base_name(name: str, glob: str, expected: bool) -> None:
    """As in a .gitignore."""
    assert matches(name, glob) is expected


def test_rank_is_that_of_the_first_glob_that_matches() -> None:
    """And 0 is the crash's own."""
    assert rank("ab", ("x*", "a*", "*b")) == (2, "matches a*")
    assert rank("zz", ("x*",)) is None
