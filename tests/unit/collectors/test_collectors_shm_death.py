"""What the wall clock can tell of a segment and the death of its process."""

from __future__ import annotations

import time

import pytest

from collector.collectors.shm import death
from collector.collectors.shm.death import SECOND_NS, Death, doubt, is_later

NOW_NS = time.time_ns()  # when the tests were collected: some run minutes later
DIED_NS = NOW_NS - 600 * SECOND_NS


def dead(*, copied_s: float = 0.0, remote: str = "") -> Death:
    return Death(after_ns=DIED_NS, copied_ns=DIED_NS + int(copied_s * SECOND_NS), remote=remote)


@pytest.mark.parametrize(
    ("born_s", "died", "back_s", "later", "reason"),
    [
        (-60, dead(), 0.0, False, ""),
        (60, dead(), 0.0, True, ""),
        (-60, dead(remote="nfs"), 0.0, False, ""),
        (60, dead(remote="nfs"), 0.0, True, "the core is on nfs"),
        (60, dead(copied_s=61), 0.0, True, "a copy"),
        (60, dead(copied_s=59), 0.0, True, ""),
        (60, dead(), 61.0, True, "set back by 61 s"),
        (60, dead(), 59.0, True, ""),
        (60, dead(), -3600.0, True, ""),
        (-60, dead(), 3600.0, False, ""),
        (86_400, dead(), 0.0, True, "in the future"),
        (-60, Death(after_ns=NOW_NS + 86_400 * SECOND_NS, copied_ns=0), 0.0, False, "in the future"),
    ],
)
def test_death_and_birth_are_compared_as_far_as_the_clock_allows(
    monkeypatch: pytest.MonkeyPatch, born_s: int, died: Death, back_s: float, later: bool, reason: str
) -> None:
    """Setting the clock ahead makes no segment newer than its process; setting it back does, by as much."""
    monkeypatch.setattr(death.clock, "set_back_s", lambda: back_s)
    born_ns = DIED_NS + born_s * SECOND_NS
    assert is_later(died, born_ns) is later
    said = doubt(died, born_ns)
    assert reason in said if reason else not said
