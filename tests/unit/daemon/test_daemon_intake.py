"""The intake across a restart: what was queued is resumed, and what cannot be is recorded as failed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import cast

import msgspec
import pytest

from collector.archive import ledgerfile
from collector.archive.ledger import Ledger
from collector.daemon import ruling_record
from collector.daemon.control import Client
from collector.daemon.counters import Counters
from collector.daemon.holding import Holding
from collector.daemon.intake import Intake, Work
from collector.daemon.limits import Limits
from collector.daemon.loop import Loop
from collector.daemon.messages import Reply, RunRequest
from collector.model.budgets import CountBudget, StormSettings
from collector.model.case import Fate
from collector.model.errors import UsageError
from collector.model.incident import IncidentState
from collector.model.marker import DUMP, HELD_DUMP, MARKER_BYTES, CoreRef, Marker, MarkerKind, ProcessRef
from collector.model.owners import Owners
from collector.model.units import Reserve
from collector.pipeline.generation import Generation
from collector.pipeline.steps import Pipeline
from collector.runner.replies import Done
from collector.triggers.manual import find_processes

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
    """Start an intake on the same archive, again and again."""

    def begin(
        storm: StormSettings | None = None,
        sealed: Mapping[str, IncidentState] = MappingProxyType({}),
        own: Iterable[int] = (),
    ) -> Intake:
        generation = SimpleNamespace(
            settings=SimpleNamespace(archive=str(tmp_path), reserve=Reserve(percent=0.0), owners=Owners()),
            loaded=SimpleNamespace(config=SimpleNamespace(storm=storm or StormSettings(coalesce_s=0.0))),
            pipeline=lambda name: Pipeline(name=name, steps=()),
            pipelines={"crash": Pipeline(name="crash", steps=())},
        )
        ledgers.append(Ledger(str(tmp_path / "ledger.sqlite")))
        loop = Loop()
        limits.append(Limits(loop))
        counters.append(Counters())
        intake = Intake(
            ledgers[-1],
            cast(Generation, generation),
            loop,
            lambda: None,
            lambda: frozenset(own),
            limits=limits[-1],
            holding=Holding(loop),
            counters=counters[-1],
        )
        intake.resume(sealed)
        return intake

    return begin


ledgers: list[Ledger] = []
limits: list[Limits] = []
counters: list[Counters] = []
NOBODY = 65534
INCIDENT = "20260101T000000.000000Z-000000"


def kill() -> None:
    """End the last intake: only its ledger outlives it."""
    ledgers[-1].close()


def begun(intake: Intake) -> Work:
    work = intake.next()
    assert work is not None
    intake.begun(work, INCIDENT)
    return work


def due(intake: Intake) -> list[tuple[Marker, ...]]:
    """Return the markers of each case that may run now, without when they were noticed."""
    return [offered(work) for work in iter(intake.next, None)]


def offered(work: Work) -> tuple[Marker, ...]:
    return tuple(msgspec.structs.replace(marker, noticed_ticks=None) for marker in work.markers)


@pytest.mark.parametrize("stage", ["queued", "held", "begun"])
def test_intake_resumes_a_case_with_the_core_that_joined_it(start: Start, tmp_path: Path, stage: str) -> None:
    """The catch-up scan regards that core as known: the case itself must bring it along."""
    intake = start()
    budget = 5 if stage == "held" else 0
    for pid in range(100, 100 + budget):
        intake.offer(exit_of(pid), "crash")
    intake.offer(exit_of(7), "crash")
    intake.offer(core(7), "crash")
    if stage == "begun":
        begun(intake)
    assert rows(tmp_path)[budget][0] == ("held" if stage == "held" else "queued")
    kill()
    again = start(StormSettings(coalesce_s=0.0, per_executable=CountBudget(count=100)))
    again.offer(core(7), "crash")  # the catch-up scan
    assert due(again) == [(exit_of(7), core(7))]  # the others still wait for their cores
    assert len(rows(tmp_path)) == budget + 2


@pytest.mark.parametrize("stage", ["queued", "begun"])
def test_intake_resumes_a_held_crash_as_one_whose_dump_has_ended(start: Start, stage: str) -> None:
    """The process was let go when the earlier run ended: nobody may look for it."""
    intake = start()
    intake.offer(exit_of(7), "crash")
    intake.offer(msgspec.structs.replace(exit_of(7), kind=MarkerKind.DUMP, attributes={DUMP: HELD_DUMP}), "crash")
    if stage == "begun":
        begun(intake)
    kill()
    ((_, dump),) = due(start())
    assert dump.attributes == {DUMP: "its dump was ended: the collector was started again"}


def test_intake_resumes_each_case_by_itself(start: Start, tmp_path: Path) -> None:
    """Two cases of one executable do not coalesce because both are resumed at the same time."""
    intake = start(StormSettings(coalesce_s=0.0))
    intake.offer(core(7, inode=1), "crash")
    intake.offer(core(8, inode=2), "crash")
    kill()
    again = start(StormSettings(coalesce_s=5.0))
    assert [fate for fate, _, _ in rows(tmp_path)] == ["queued", "queued"]
    assert due(again) == [(core(7, inode=1),), (core(8, inode=2),)]


def test_intake_ends_a_run_by_hand_that_a_restart_interrupted(start: Start, tmp_path: Path) -> None:
    """The client is gone, and with it the steps it asked for: the run fails, and nothing else runs in its place."""
    client = cast(Client, SimpleNamespace(uid=0, end=print))
    for begin in (False, True):
        intake = start()
        intake.by_hand(RunRequest(pipeline="crash"), client)
        if begin:
            begun(intake)
        kill()
    again = start()
    assert again.next() is None
    assert [(fate, reason) for fate, _, reason in rows(tmp_path)] == [
        ("failed", "the daemon ended before it was done"),
        ("failed", "the daemon ended before it was done"),
    ]


@pytest.mark.parametrize("pid", [-1, 0, (1 << 22) + 1, 10**20])
def test_intake_refuses_a_run_by_hand_for_what_is_no_pid(start: Start, tmp_path: Path, pid: int) -> None:
    """The client is told so; nothing is recorded."""
    replies: list[Reply] = []
    request = RunRequest(pipeline="crash", processes=(ProcessRef(pid=pid),))
    start().by_hand(request, cast(Client, SimpleNamespace(uid=0, end=replies.append)))
    assert [(reply.exit_code, reply.message) for reply in replies] == [(64, f"{pid} is not a PID")]
    assert rows(tmp_path) == []
    with pytest.raises(UsageError, match="is not a PID"):
        find_processes([pid])


def test_intake_knows_the_incident_of_a_case_that_could_not_be_sealed(start: Start, tmp_path: Path) -> None:
    """The disk did not answer: failed; the next start seals what is there, and updates the marker's row."""
    intake = start()
    intake.offer(exit_of(7), "crash")
    intake.offer(core(7), "crash")
    intake.finished(begun(intake), Done(incident=None, exit_code=70, reason="the deadline passed"))
    kill()
    assert rows(tmp_path)[0] == ("failed", INCIDENT, "the deadline passed")
    start(sealed={INCIDENT: IncidentState.INTERRUPTED})
    assert [row[:2] for row in rows(tmp_path)] == [("interrupted", INCIDENT), ("joined", INCIDENT)]


def test_intake_does_not_repeat_an_incident_that_was_sealed_when_it_was_killed(start: Start, tmp_path: Path) -> None:
    """Killed between the manifest and the rename: collected, as the manifest says, and not collected again."""
    intake = start()
    intake.offer(core(7), "crash")
    begun(intake)
    kill()
    (tmp_path / INCIDENT).mkdir()
    again = start(sealed={INCIDENT: IncidentState.INCOMPLETE})
    assert again.next() is None
    assert [row[:2] for row in rows(tmp_path)] == [("collected", INCIDENT)]


def test_intake_resumes_the_markers_of_a_ledger_that_could_not_be_opened_at_the_start(
    start: Start, tmp_path: Path
) -> None:
    """A disk that is back an hour later: its queue is collected then, not at the next restart."""
    file = tmp_path / "ledger.sqlite"
    before = start()
    before.offer(exit_of(7), "crash")
    before.offer(core(7), "crash")
    kill()
    file.rename(tmp_path / "aside")
    file.mkdir()
    intake = start()
    assert ledgers[-1].problem is not None
    intake.offer(core(8, inode=2), "crash")
    file.rmdir()
    (tmp_path / "aside").rename(file)
    intake.tidy()
    assert ledgers[-1].problem is None
    work = begun(intake)
    first = offered(work)
    intake.finished(work, Done(incident=INCIDENT, state=IncidentState.COMPLETE))
    assert [first, *due(intake)] == [(core(8, inode=2),), (exit_of(7), core(7))]
    assert [row[0] for row in rows(tmp_path)] == ["queued", "joined", "collected"]


def test_intake_lets_the_ledger_sync_between_incidents_only(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During an incident its disk is busy, and the loop must not wait for it."""
    monkeypatch.setattr(ledgerfile, "WRITE_BACK_BYTES", 1)
    intake, file = start(), tmp_path / "ledger.sqlite"
    before = file.stat().st_size
    intake.offer(core(7), "crash")
    intake.tidy()
    work = begun(intake)
    intake.tidy()
    assert file.stat().st_size == before
    intake.finished(work, Done(incident=INCIDENT, state=IncidentState.COMPLETE))
    intake.tidy()
    assert file.stat().st_size > before


def test_intake_suppresses_the_crash_of_a_worker_that_was_forked_a_moment_ago(start: Start, tmp_path: Path) -> None:
    """Its crash, and that of a command that it ran, open no incident, even during another one."""
    own = [100]
    intake = start(own=own)
    own.append(7)  # an incident that has lost all workers gets a new one
    intake.offer(exit_of(7), "crash")
    intake.offer(msgspec.structs.replace(exit_of(8), attributes={"parent": "7"}), "crash")
    assert [fate for fate, _, _ in rows(tmp_path)] == ["suppressed", "suppressed"]
    assert intake.next() is None


def test_intake_accounts_for_every_marker_of_a_flood(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a user's share of rows and log lines there are counts; another user's crash has both, and its incident."""
    lines: list[object] = []
    monkeypatch.setattr(ruling_record.log, "info", lambda event, **fields: lines.append(fields["uid"]))
    intake = start(StormSettings(coalesce_s=0.0, per_executable=CountBudget(count=2)))
    for inode in range(1000, 3000):
        intake.offer(msgspec.structs.replace(core(inode, inode), uid=NOBODY, comm=f"c{inode % 7}"), "crash")
    intake.offer(core(1, 1), "crash")
    assert 0 in [markers[0].uid for markers in due(intake)]
    counts = ledgers[-1].counts()
    assert sum(counts.values()) == 2001
    for inode in range(1000, 3000):
        intake.offer(msgspec.structs.replace(core(inode, inode), uid=NOBODY, comm=f"c{inode % 7}"), "crash")
    assert ledgers[-1].counts() == counts, "a marker that was counted is recognized"
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        ((held,),) = db.execute(f"SELECT count(*) FROM markers WHERE uid = {NOBODY}").fetchall()
        ((counted,),) = db.execute("SELECT sum(count) FROM counted").fetchall()
    assert held + counted == 2000
    assert held < 400
    assert (lines.count(0), lines.count(NOBODY)) == (1, 150)
    assert limits[-1].counts["log lines"] == {f"uid {NOBODY}": 2000 - 150}
    assert limits[-1].counts["ledger rows"] == {f"uid {NOBODY}": 2000 - 300}


def test_intake_counts_each_marker_once_by_its_final_fate(start: Start, tmp_path: Path) -> None:
    """Collected, joined, displaced, failed, or resumed by the next start: what is scraped agrees with the ledger."""
    intake = start(StormSettings(coalesce_s=0.0, per_executable=CountBudget(count=3), queue=2))
    intake.offer(exit_of(7), "crash")
    for inode in range(7, 30):
        intake.offer(core(inode, inode), "crash")
    intake.finished(begun(intake), Done(incident=INCIDENT, state=IncidentState.COMPLETE))
    intake.finished(begun(intake), Done(exit_code=75, reason="no space"))
    intake.offer(core(30, 30), "crash")
    intake.by_hand(RunRequest(pipeline="crash"), cast(Client, SimpleNamespace(uid=0, end=print)))
    kill()
    again = start(StormSettings(coalesce_s=0.0, per_executable=CountBudget(count=100)))
    assert counters[-1].markers == {("manual", "failed"): 1}
    while (work := again.next()) is not None:
        again.begun(work, INCIDENT)
        again.finished(work, Done(incident=INCIDENT, state=IncidentState.INTERRUPTED))
    counted: Counter[str] = Counter()
    for one in counters[-2:]:
        counted.update({fate: 0 for _, fate in one.markers})
        for (_, fate), count in one.markers.items():
            counted[fate] += int(count)
    in_ledger = {fate: count for fate, count in ledgers[-1].counts().items() if not Fate(fate).open}
    assert counted == in_ledger
    assert {"collected", "joined", "suppressed", "failed", "interrupted"} <= counted.keys()
    assert counters[-2].markers["exits", "collected"] == 1


def test_intake_takes_no_marker_that_is_too_long(start: Start, tmp_path: Path) -> None:
    """Escapes in an exit file became a marker of 1 MiB."""
    intake = start()
    intake.offer(msgspec.structs.replace(core(1), attributes={f"K{n}": "\\" * 4096 for n in range(64)}), "crash")
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        ((size,),) = db.execute("SELECT length(marker) FROM markers").fetchall()
    assert size <= MARKER_BYTES


def test_intake_enters_what_becomes_of_a_crash_once_its_user_is_known(start: Start, tmp_path: Path) -> None:
    """Beyond that user's budget it waits after all, and its row says so."""
    intake = start(StormSettings(per_executable=CountBudget(count=1)))
    for pid in (7, 8):
        told = msgspec.structs.replace(exit_of(pid), comm=None, uid=None, unit="engine.service")
        intake.offer(msgspec.structs.replace(told, kind=MarkerKind.NOTIFICATION), "crash")
        intake.offer(msgspec.structs.replace(core(pid, inode=pid), uid=1000), "crash")
    assert [fate for fate, _, _ in rows(tmp_path)] == ["queued", "joined", "held", "joined"]
    assert rows(tmp_path)[2][2].startswith("1 incident of engine (uid 1000)")
