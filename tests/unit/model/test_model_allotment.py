from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model.allotment import allot, fitting
from collector.model.owners import ROOT, by_owner

A, B, C = "uid 1000", "uid 1001", "uid 1002"


@pytest.mark.parametrize(
    ("wanted", "allotted"),
    [
        ({A: 30, B: 20}, {A: 30, B: 20}),
        ({A: 500, B: 500}, {A: 50, B: 50}),
        ({A: 500, B: 10, C: 500}, {A: 45, B: 10, C: 45}),
        ({A: 500}, {A: 100}),
        ({A: 500, ROOT: 500}, {A: 37.5, ROOT: 62.5}),
        ({A: 500, ROOT: 10}, {A: 90, ROOT: 10}),
        ({}, {}),
    ],
)
def test_allot_gives_everybody_the_same_as_far_as_he_wants_it(
    wanted: dict[str, float], allotted: dict[str, float]
) -> None:
    """What one does not want is there for the others, and a quarter is root's."""
    assert allot(wanted, 100) == allotted


def test_fitting_lets_nobody_fill_everything() -> None:
    """The hundred that one user wants most are not all taken; what the others do not need, he gets."""
    things = [(A, 10)] * 100 + [(B, 10), (ROOT, 10)]
    fits = fitting(things, 100)
    assert fits[-2:] == [True, True]
    assert fits.count(True) == 10


def test_fitting_skips_what_is_too_large_and_uses_what_is_left() -> None:
    """A share that nothing of its owner fits into is not lost."""
    assert fitting([(A, 60), (B, 60)], 100) == [True, False]
    assert fitting([(A, 200), (A, 5)], 100) == [False, True]
    assert fitting([(A, 0), (B, 200)], 0) == [True, False]


def test_fitting_keeps_a_limit_to_the_byte() -> None:
    """Shares are floating-point numbers; beyond 2**53 their sum may be more than there is."""
    share = (1 << 52) + 2
    assert fitting([(A, share), (B, share), (A, 1 << 53), (B, 1 << 53)], 2 * share - 1) == [True, False, False, False]


@given(st.lists(st.tuples(st.sampled_from([A, B, C, ROOT]), st.integers(0, 50))), st.integers(0, 300))
def test_fitting_keeps_the_limit_and_leaves_out_only_what_does_not_fit(
    things: list[tuple[str, int]], limit: int
) -> None:
    """Whatever is wanted."""
    fits = fitting(things, limit)
    used = sum(size for (_, size), taken in zip(things, fits, strict=True) if taken)
    assert used <= limit
    assert all(used + size > limit for (_, size), taken in zip(things, fits, strict=True) if not taken)


def test_by_owner_names_those_with_most() -> None:
    """A reason stays short, however many users there are."""
    assert by_owner({A: 1, B: 3, C: 2, ROOT: 9, "everybody": 0}) == f"root: 9, {B}: 3, {C}: 2 and 2 others"
    assert by_owner({A: 4}) == f"{A}: 4"
