"""How old a file may be, when the date is set while the trigger watches, while it does not, and between two boots."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from watching import trigger_context

from collector.host.clock import ClockRecord, Moment
from collector.triggers import catch_up
from collector.triggers.catch_up import STORE_S, CatchUp

HOUR = 3600.0


class Watching:
    """A trigger that catches up with the last hour, its stored date, and the clock that runs."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: dict[str, str] = {}
        self.now = Moment("first", 1000.0)
        self.directory = directory
        monkeypatch.setattr(catch_up, "moment", lambda: self.now)

    def start(self) -> CatchUp:
        return CatchUp(trigger_context(self.directory, notes=self.notes), HOUR)

    def know(self, date_s: float) -> None:
        """Let the last date that was known be *date_s*, just now."""
        record = ClockRecord(boot_id=self.now.boot_id, boot_s=self.now.boot_s, clock_s=date_s)
        self.notes["test.date"] = msgspec.json.encode(record).decode()

    def run(self, seconds: float) -> None:
        self.now = Moment(self.now.boot_id, self.now.boot_s + seconds)


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(tmp_path, monkeypatch)


def age_s(rule: CatchUp) -> float:
    """Return how old a file may be by today's date."""
    return time.time() - rule.oldest_s()


def test_catch_up_goes_by_the_date_if_it_knows_no_better(watching: Watching) -> None:
    """At the first start ever, or with a note that cannot be read."""
    assert age_s(watching.start()) == pytest.approx(HOUR, abs=600)
    watching.notes["test.date"] = "1.5"
    assert age_s(watching.start()) == pytest.approx(HOUR, abs=600)


@pytest.mark.parametrize(("ahead_s", "expected_s"), [(0.0, HOUR), (720 * HOUR, 721 * HOUR), (-720 * HOUR, HOUR)])
def test_catch_up_takes_what_only_the_date_makes_old(watching: Watching, ahead_s: float, expected_s: float) -> None:
    """The date was set ahead, or back, while nobody watched."""
    watching.know(time.time() - ahead_s)
    assert age_s(watching.start()) == pytest.approx(expected_s, abs=600)


def test_catch_up_counts_time_in_which_nobody_watched(watching: Watching) -> None:
    """A daemon that was stopped for a day catches up with an hour, as far as running time can tell."""
    watching.know(time.time() - 24 * HOUR)
    watching.run(24 * HOUR)
    assert age_s(watching.start()) == pytest.approx(HOUR, abs=600)
    watching.now = Moment("second", 30.0)
    assert age_s(watching.start()) == pytest.approx(25 * HOUR, abs=600)


def test_catch_up_believes_a_new_date_once_all_files_from_before_are_too_old(watching: Watching) -> None:
    """Until then they are not left alone; after that the date may be the right one at last."""
    watching.know(time.time() - 720 * HOUR)
    rule = watching.start()
    rule.keep()
    watching.run(HOUR - 1.0)
    rule.keep()
    assert age_s(rule) == pytest.approx(720 * HOUR + 1.0, abs=600)
    watching.run(1.0)
    rule.keep()
    assert age_s(rule) == pytest.approx(HOUR, abs=600)
    assert age_s(watching.start()) == pytest.approx(HOUR, abs=600)


def test_catch_up_stores_the_date_now_and_then(watching: Watching) -> None:
    """An idle daemon hardly writes."""
    rule = watching.start()
    rule.keep()
    first = watching.notes.pop("test.date")
    watching.run(STORE_S - 1.0)
    rule.keep()
    assert watching.notes == {}
    watching.run(1.0)
    rule.keep()
    assert watching.notes["test.date"] != first
