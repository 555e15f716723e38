"""What is removed under the daemon's hands, and clocks that are set."""

from __future__ import annotations

import time
from pathlib import Path

from collector.archive.ledger import Ledger
from collector.archive.retention import Kept, to_delete
from collector.model.marker import Marker, MarkerKind
from collector.model.retention import RetentionRules
from collector.runner.housekeeping import age_clock_s

RULES = RetentionRules(count=2, age_s=None, size_bytes=None)
KEPT = [Kept(id=name, ended_s=0.0, size_bytes=1) for name in ("a", "b", "c")]


def test_ledger_is_written_anew_when_its_file_was_removed(tmp_path: Path) -> None:
    """SQLite goes on writing to a file that has no name any more: the next tidy notices."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(str(path))
    number = ledger.record(Marker(kind=MarkerKind.MANUAL, trigger="test", at_s=0.0), pipeline="crash")
    for file in tmp_path.iterdir():
        file.unlink()
    ledger.tidy(idle=True)
    assert ledger.problem is None
    ledger.close()
    assert [entry.id for entry in Ledger(str(path)).pending()] == [number]


def test_retention_spares_the_incident_just_archived() -> None:
    """After the wall clock was set back, the newest incident has the oldest id."""
    assert to_delete(KEPT, RULES, now_s=0.0) == ["a"]
    assert to_delete(KEPT, RULES, now_s=0.0, spare="a") == []
    keep_all = RetentionRules(count=None, age_s=None, size_bytes=None)
    assert to_delete(KEPT, keep_all, now_s=0.0, need_bytes=99, spare="a") == ["b"]


def test_retention_does_not_follow_a_wall_clock_that_jumps_ahead() -> None:
    """A wrong date must not age a whole archive; one that goes back makes nothing older."""
    now_s = time.time()
    assert age_clock_s(now_s + 365 * 86_400) < now_s + 60
    assert age_clock_s(now_s - 365 * 86_400) == now_s - 365 * 86_400
