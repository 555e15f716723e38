"""Paces that do not learn, and the bound above the one that does, against simulated disks."""

from __future__ import annotations

import pytest
from simulated_disks import drive, rate_of, steady

from collector.copying.rate.controller import MIB, Adaptive
from collector.copying.rate.limiter import Bounded, Max


def test_bounded_keeps_its_rate_and_saves_nothing_up() -> None:
    """A pause is not followed by a burst."""
    pace = Bounded(10 * MIB, Adaptive())
    assert pace.turn(0.0, MIB) == 0.0
    assert pace.turn(0.0, MIB) == pytest.approx(0.1)
    assert pace.turn(60.0, MIB) == 0.0
    assert pace.turn(60.0, MIB) == pytest.approx(0.1)


def test_bounded_yields_on_a_disk_that_is_slower_than_the_bound() -> None:
    """A bound that the disk never reaches must not turn into full speed."""
    written = drive(Bounded(200 * MIB, Adaptive()), steady(50 * MIB), seconds=60)
    assert rate_of(written, since=5) <= 0.9 * 50 * MIB


def test_bounded_learns_nothing_of_speeds_it_never_asked_for() -> None:
    """Minutes at a tenth of the disk, then a slower disk: it is met as soon as by a copy that starts there."""
    fast, slow = steady(100 * MIB), steady(8 * MIB)
    pace = Bounded(10 * MIB, Adaptive(rate=70.0 * MIB, capacity=100.0 * MIB))
    written = drive(pace, lambda now, size: (fast if now < 120 else slow)(now, size), seconds=180)
    assert rate_of(written, since=140) <= 0.95 * 8 * MIB


def test_max_never_waits() -> None:
    """As fast as the disk takes it."""
    assert rate_of(drive(Max(), steady(100 * MIB), seconds=2)) >= 0.98 * 100 * MIB
