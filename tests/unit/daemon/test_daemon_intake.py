"""The intake over a restart: what was queued comes back whole, what cannot be had any more is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import cast

import msgspec
import pytest

from collector.archive import ledgerfile
from collector.daemon.control import Client
from collector.daemon.intake import Intake, Work
from collector.daemon.loop import Loop
from collector.daemon.messages import RunRequest
from collector.model.budgets import StormSettings
from collector.model.case import Case
from collector.model.incident import IncidentState
from collector.model.marker import CoreRef, Marker, MarkerKind, ProcessRef
from collector.pipeline.generation import Generation
from collector.pipeline.run_types import RunOutcome
from collector.pipeline.steps import Pipeline

Start = Callable[..., Intake]


def core(pid: int, inode: int = 1) -> Marker:
    reference = CoreRef(path="/crash/core", device=1, inode=inode, size_bytes=5, mtime_ns=1, uid=0)
    process = ProcessRef(pid=pid)
    return Marker(
        kind=MarkerKind.CORE_FILE, trigger="cores", at_s=0.0, process=process, comm="engine", uid=0, core=reference
    )


def exit_of(pid: int) -> Marker:
    process = ProcessRef(pid=pid, start_time_ticks=pid)
    return Marker(kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=process, comm="engine", uid=0, signal=11)


def rows(archive: Path) -> list[tuple[str, str | None, str]]:
    """Return fate, incident and reason of every marker."""
    with sqlite3.connect(archive / "ledger.sqlite") as db:
        return db.execute("SELECT fate, incident, reason FROM markers ORDER BY id").fetchall()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start an intake on one archive, again and again."""

    def begin(
        storm: StormSettings | None = None,
        sealed: Mapping[str, IncidentState] = MappingProxyType({}),
        own: Iterable[int] = (),
    ) -> Intake:
        generation = SimpleNamespace(
            settings=SimpleNamespace(archive=str(tmp_path)),
            loaded=SimpleNamespace(config=SimpleNamespace(storm=storm or StormSettings(coalesce_s=0.0))),
            pipeline=lambda name: Pipeline(name=name, steps=()),
            pipelines={"crash": Pipeline(name="crash", steps=())},
        )
        intake = Intake(cast(Generation, generation), Loop(), lambda: None, lambda: frozenset(own))
        intake.resume(sealed)
        return intake

    return begin


def begun(intake: Intake, incident: str = "20260101T000000.000000Z-000000") -> Work:
    work = intake.next()
    assert work is not None
    intake.begun(work, incident)
    return work


def case_of(intake: Intake, pid: int) -> Case:
    return intake._admission._by_pid[pid]


@pytest.mark.parametrize("stage", ["queued", "held", "begun"])
def test_intake_resumes_a_case_with_the_core_that_joined_it(start: Start, tmp_path: Path, stage: str) -> None:
    """The catch-up scan regards that core as known: the case itself must bring it along."""
    intake = start()
    for pid in range(100, 105 if stage == "held" else 100):  # the budget of the executable
        intake.offer(exit_of(pid), "crash")
    intake.offer(exit_of(7), "crash")
    intake.offer(core(7), "crash")
    if stage == "begun":
        begun(intake)
    intake.close()
    again = start()
    again.offer(core(7), "crash")  # the catch-up scan
    assert case_of(again, 7).markers == [exit_of(7), core(7)]
    assert case_of(again, 7).marker.core is not None
    assert rows(tmp_path)[-2:][0][0] == ("held" if stage == "held" else "queued")
    assert len(rows(tmp_path)) == (7 if stage == "held" else 2)


def test_intake_resumes_each_case_by_itself(start: Start, tmp_path: Path) -> None:
    """Two crashes of one executable that were two cases are no single one because both come back at once."""
    intake = start(StormSettings(coalesce_s=0.0))
    intake.offer(core(7, inode=1), "crash")
    intake.offer(core(8, inode=2), "crash")
    intake.close()
    again = start(StormSettings(coalesce_s=5.0))
    assert case_of(again, 7) is not case_of(again, 8)
    assert [fate for fate, _, _ in rows(tmp_path)] == ["queued", "queued"]


def test_intake_ends_a_run_by_hand_that_a_restart_cut_off(start: Start, tmp_path: Path) -> None:
    """Who asked is gone, and with them the steps they asked for: not run again as something else, and told."""
    client = cast(Client, SimpleNamespace(uid=0, end=print))
    for begin in (False, True):
        intake = start()
        intake.by_hand(RunRequest(pipeline="crash"), client)
        if begin:
            begun(intake)
        intake.close()
    again = start()
    assert again.next() is None
    assert [(fate, reason) for fate, _, reason in rows(tmp_path)] == [
        ("failed", "the daemon ended before it was done"),
        ("failed", "the daemon ended before it was done"),
    ]


INCIDENT = "20260101T000000.000000Z-000000"


def test_intake_knows_the_incident_of_a_case_that_could_not_be_sealed(start: Start, tmp_path: Path) -> None:
    """The disk did not answer: failed, but the next start seals what is there, and the marker's row says so."""
    intake = start()
    intake.offer(exit_of(7), "crash")
    intake.offer(core(7), "crash")
    work = begun(intake, INCIDENT)
    intake.finished(work, RunOutcome(incident=None, exit_code=70, reason="the deadline passed"))
    intake.close()
    assert rows(tmp_path)[0] == ("failed", INCIDENT, "the deadline passed")
    start(sealed={INCIDENT: IncidentState.INTERRUPTED}).close()
    assert [row[:2] for row in rows(tmp_path)] == [("interrupted", INCIDENT), ("joined", INCIDENT)]


def test_intake_believes_the_state_of_an_incident_that_was_whole_when_it_was_killed(
    start: Start, tmp_path: Path
) -> None:
    """Killed between the manifest and its name: collected, as the manifest says, and not collected again."""
    intake = start()
    intake.offer(core(7), "crash")
    begun(intake, INCIDENT)
    intake.close()
    (tmp_path / INCIDENT).mkdir()
    again = start(sealed={INCIDENT: IncidentState.INCOMPLETE})
    assert again.next() is None
    assert [row[:2] for row in rows(tmp_path)] == [("collected", INCIDENT)]


def test_intake_takes_up_what_a_file_owes_that_could_not_be_opened_at_the_start(start: Start, tmp_path: Path) -> None:
    """A disk that is back an hour later: its queue is collected then, not at the next restart."""
    ledger = tmp_path / "ledger.sqlite"
    before = start()
    before.offer(exit_of(7), "crash")
    before.offer(core(7), "crash")
    before.close()
    ledger.rename(tmp_path / "aside")
    ledger.mkdir()
    intake = start()
    assert intake.problem is not None
    intake.offer(core(8, inode=2), "crash")
    ledger.rmdir()
    (tmp_path / "aside").rename(ledger)
    intake._tidy()
    assert intake.problem is None
    found = [intake.next()]
    intake.begun(found[0], INCIDENT)
    intake.finished(found[0], RunOutcome(incident=INCIDENT, state=IncidentState.COMPLETE))
    found.append(intake.next())
    assert [work.markers for work in found if work] == [(core(8, inode=2),), (exit_of(7), core(7))]
    assert [row[0] for row in rows(tmp_path)] == ["queued", "joined", "collected"]


def test_intake_lets_the_ledger_sync_between_incidents_only(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one is under way or waits, its disk is busy, and the loop must not wait for it."""
    monkeypatch.setattr(ledgerfile, "WRITE_BACK_BYTES", 1)
    intake, file = start(), tmp_path / "ledger.sqlite"
    before = file.stat().st_size
    intake.offer(core(7), "crash")
    intake._tidy()
    work = begun(intake)
    intake._tidy()
    assert file.stat().st_size == before
    intake.finished(work, RunOutcome(incident=INCIDENT, state=IncidentState.COMPLETE))
    intake._tidy()
    assert file.stat().st_size > before


def test_intake_disowns_a_worker_that_was_forked_a_moment_ago(start: Start, tmp_path: Path) -> None:
    """Its crash, and that of a command that it ran, trigger nothing: in the middle of an incident neither."""
    own = [100]
    intake = start(own=own)
    own.append(7)  # as `have_worker` does where an incident has lost all others
    intake.offer(exit_of(7), "crash")
    intake.offer(msgspec.structs.replace(exit_of(8), attributes={"parent": "7"}), "crash")
    assert [fate for fate, _, _ in rows(tmp_path)] == ["suppressed", "suppressed"]
    assert intake.next() is None
