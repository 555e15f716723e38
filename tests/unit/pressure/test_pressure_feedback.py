"""The gate between the chunks of a copy."""

from __future__ import annotations

import time

import pytest
from test_pressure_gate import CALM, DIRECT, FULL_DISK, MILD, NO_FLOOR, SEVERE

from collector.model.copying import Advice
from collector.model.pressure import Sample
from collector.pressure.feedback import GateFeedback


class Fixed:
    """A sampler that always finds the same."""

    def __init__(self, found: Sample) -> None:
        self.found = found

    def sample(self, _: int) -> Sample:
        return self.found


def asked(found: Sample, *, holds: bool) -> tuple[Advice, str]:
    gate = GateFeedback(
        sampler=Fixed(found),  # type: ignore[arg-type]
        disk_fd=-1,
        limits=NO_FLOOR,
        budget=DIRECT,
        reserve_bytes=12_600 << 20,
        stop_at_s=time.monotonic() + 60,
        holds=holds,
    )
    answer = gate()
    return answer.advice, answer.reason


@pytest.mark.parametrize(("found", "otherwise"), [(MILD, Advice.SLOW), (SEVERE, Advice.PAUSE)], ids=["mild", "severe"])
def test_memory_that_is_short_stops_a_copy_for_which_a_process_is_held(found: Sample, otherwise: Advice) -> None:
    assert asked(found, holds=True) == (Advice.STOP, found.distress_reason)
    assert asked(found, holds=False)[0] is otherwise


def test_hold_changes_nothing_in_calm_or_for_the_disk() -> None:
    assert asked(CALM, holds=True) == asked(CALM, holds=False) == (Advice.GO, "")
    assert asked(FULL_DISK, holds=True) == asked(FULL_DISK, holds=False)
