"""The limiter against simulated disks."""

from __future__ import annotations

import pytest
from simulated_disks import drive, rate_of, steady

from collector.copying.rate.controller import Controller
from collector.copying.rate.limiter import Limiter
from collector.copying.rate.window import MIB


def test_limiter_keeps_its_bound_and_saves_nothing_up() -> None:
    """A pause is not followed by a burst."""
    limiter = Limiter(10 * MIB)
    assert limiter.reserve(0.0, MIB) == 0.0
    assert limiter.reserve(0.0, MIB) == pytest.approx(0.1)
    assert limiter.reserve(60.0, MIB) == 0.0
    assert limiter.reserve(60.0, MIB) == pytest.approx(0.1)


def test_limiter_yields_when_the_disk_is_slower_than_the_bound() -> None:
    """A bound that the disk never reaches must not turn into full speed."""
    written = drive(Limiter(200 * MIB, Controller()), steady(50 * MIB), seconds=60)
    assert rate_of(written, since=5) <= 0.9 * 50 * MIB


def test_limiter_learns_nothing_about_speeds_that_it_never_asked_for() -> None:
    """After minutes at a tenth of the disk's speed, a slower disk is noticed as soon as by a copy that starts there."""
    fast, slow = steady(100 * MIB), steady(8 * MIB)
    limiter = Limiter(10 * MIB, Controller(rate=70.0 * MIB, capacity=100.0 * MIB))
    written = drive(limiter, lambda now, size: (fast if now < 120 else slow)(now, size), seconds=180)
    assert rate_of(written, since=140) <= 0.95 * 8 * MIB


def test_limiter_without_bound_and_controller_never_waits() -> None:
    assert rate_of(drive(Limiter(), steady(100 * MIB), seconds=2)) >= 0.98 * 100 * MIB
