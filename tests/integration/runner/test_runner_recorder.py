"""The flight recorder with real workers, and for a day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from copying_fixtures import memory_kib
from crowd import crowd
from machine import need

from collector.config.spec import RuntimeSettings
from collector.daemon.flight_recorder import FlightRecorder
from collector.host import shared_recording
from collector.host.clock import boot_s
from collector.model.incident import StepStatus
from collector.model.pressure import Distress
from collector.model.recording import RecorderSettings, Recording, memory_bytes, read_second
from collector.model.top_processes import read_round
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import drive
from collector.runner.pool import Pool
from collector.runner.protocol import VisitProcesses
from collector.runner.recorded_files import during
from collector.runner.recorder import Recorder
from collector.runner.recorder_job import VISITED

MINUTE = RecorderSettings(keep_s=60.0)  # type: ignore[arg-type]
DAY = 86_400


@pytest.fixture
def recording() -> Iterator[Recording]:
    made = shared_recording.share(MINUTE)
    assert made is not None
    yield made
    shared_recording.share(RecorderSettings(keep_s=0.0))  # type: ignore[arg-type]


def recorder_of(recording: Recording, now_s: list[float]) -> Recorder:
    return Recorder(recording, Sampler(), "/", lambda: (), lambda: now_s[0])


def test_recorder_takes_no_more_memory_in_a_day() -> None:
    """86,400 rows, as fast as it can; memory is what it was after the first hundred."""
    settings = RecorderSettings()
    recording = Recording(memoryview(bytearray(memory_bytes(settings))), settings)
    now_s = [0.0]
    recorder = recorder_of(recording, now_s)
    for _ in range(2000):  # more than the ring holds
        now_s[0] += 1.0
        recorder.read_and_tick()
    before_kib = memory_kib("RssAnon")
    for _ in range(DAY - 2000):
        now_s[0] += 1.0
        recorder.read_and_tick()
    grown_kib = memory_kib("RssAnon") - before_kib
    print(f"{recording.seconds.written} rows, {grown_kib} KiB more")
    assert recording.seconds.written == DAY
    assert len(list(recording.seconds.rows())) == settings.rows
    assert grown_kib <= 256


def test_recorder_writes_a_row_per_period_and_shows_gaps(recording: Recording) -> None:
    """Ticks come twice a second; after a suspend the rows go on, and their times say what is missing."""
    now_s = [100.0]
    recorder = recorder_of(recording, now_s)
    for tick_s in (100.0, 100.5, 101.02, 101.5, 102.0, 500.0, 500.5, 501.0):
        now_s[0] = tick_s
        recorder.read_and_tick()
    stamps = [read_second(row).at_s for row in recording.seconds.rows()]
    assert stamps == [100.0, 101.02, 102.0, 500.0, 501.0]


def test_recorder_marks_where_an_incident_begins(recording: Recording) -> None:
    """It may be over before the next row is due."""
    now_s = [100.0]
    recorder = recorder_of(recording, now_s)
    recorder.read_and_tick()
    for moment_s in (100.2, 100.3):
        now_s[0] = moment_s
        recorder.mark()
    now_s[0] = 101.0
    recorder.read_and_tick()
    now_s[0] = 101.3
    recorder.read_and_tick()
    assert [read_second(row).at_s for row in recording.seconds.rows()] == [100.0, 100.2, 100.3, 101.3]


@pytest.mark.parametrize(("began_s", "lost"), [(141.0, ""), (130.0, "its first 11 s are missing")])
def test_recorder_says_which_seconds_of_a_long_incident_are_gone(
    recording: Recording, began_s: float, lost: str
) -> None:
    """A minute is kept: of an incident that takes longer, the first seconds are overwritten before it ends."""
    now_s = [100.0]
    recorder = recorder_of(recording, now_s)
    for second in range(101):
        now_s[0] = 100.0 + second
        recorder.read_and_tick()
    (artifact,) = during(recording, began_s)
    assert artifact.truncated.endswith(lost)
    assert bool(artifact.truncated) == bool(lost)


def test_recorder_misses_nothing_while_its_memory_is_not_full(recording: Recording) -> None:
    """A daemon that has just started has no older rows; the incident's own are all there."""
    now_s = [100.0]
    recorder = recorder_of(recording, now_s)
    recorder.read_and_tick()
    (artifact,) = during(recording, 90.0)
    assert not artifact.truncated


def test_recorder_counts_what_the_collector_itself_does(recording: Recording) -> None:
    """CPU of its workers, dead ones included, bytes written into incidents, and how many are under way."""
    pool = Pool(1, RuntimeSettings())
    pool.fill()
    recorder = Recorder(recording, Sampler(), "/", lambda: pool.living)
    recorder.note(events.EvidenceRead(incident="i", steps=(), duration_s=0.0))
    recorder.note(events.StepProgressed(incident="i", step="bulk", size_bytes=700))
    recorder.mark()
    recorder.note(SimpleNamespace(incident="-"))  # type: ignore[arg-type]
    recorder.note(events.IncidentRefused(incident="i", reason="", exit_code=73))
    recorder.mark()
    pool.close()
    recorder.mark()
    working, after, closed = map(read_second, recording.seconds.rows())
    assert (working.figure("own_written"), working.figure("own_incidents")) == (700, 1)
    assert (after.figure("own_written"), after.figure("own_incidents")) == (700, 0), "a counter does not fall"
    used = [row.figure("own_cpu") or 0 for row in (working, after, closed)]
    assert used == sorted(used)
    assert used[0] > 0


def test_recorder_counts_the_cpu_of_workers_that_are_not_buried_yet(recording: Recording) -> None:
    """A counter never falls: one that hangs in the kernel, or has just been dropped, has used what it has used."""
    pool = Pool(1, RuntimeSettings())
    sampler = Sampler()
    flight = FlightRecorder(recording, loop=Stub(), pool=pool, sampler=sampler, archive="/", busy=lambda: True)  # type: ignore[arg-type]
    try:
        with pool.widened():
            pool.fill()
            flight.mark()
        flight.mark()
        assert len(pool.abandoned) == 1
        before, after = (read_second(row).figure("own_cpu") or 0 for row in recording.seconds.rows())
        assert after >= before
    finally:
        pool.close()


@pytest.fixture
def burner() -> Iterator[int]:
    """A process that has used a fifth of a second of CPU, and goes on."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            while sum(psutil.Process(process.pid).cpu_times()[:2]) < 0.2:
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()


def test_recorder_finds_the_largest_processes(recording: Recording, burner: int, tmp_path: Path) -> None:
    """A worker visits them, a hundred at a time; what it has found is in the memory that all share."""
    need("root")
    pool = Pool(2, RuntimeSettings())
    pool.fill()
    try:
        with crowd(tmp_path, 3 * VISITED):
            jobs = one_round(pool, recording)
        last = read_round(recording.state.row())
        assert jobs >= last.processes // VISITED
        assert 3 * VISITED < last.processes < 6 * VISITED + len(os.listdir("/proc"))
        assert len(last.by_memory) <= 10 >= len(last.by_cpu)
        assert burner in [process.pid for process in last.by_cpu]
        assert [one.rss_bytes for one in last.by_memory] == sorted(one.rss_bytes for one in last.by_memory)[::-1]
    finally:
        pool.close()


def one_round(pool: Pool, recording: Recording) -> int:
    """Visit all processes; return the number of jobs."""
    count = 0
    while count == 0 or recording.state.offset:
        result = drive(pool.perform(VisitProcesses(), deadline_s=boot_s() + 60))
        assert result.done.status is StepStatus.OK, result.done.reason
        count += 1
    return count


class Stub:
    """A pool, a loop and a sampler that note what they are asked for."""

    def __init__(self) -> None:
        self.idle, self.living = 2, ()
        self.distress = Distress.CALM
        self.is_busy = False
        self.jobs: list[Any] = []

    def perform(self, job: Any, **_: Any) -> Any:
        self.jobs.append(job)
        return job

    def spawn(self, *_: Any) -> None:
        """Leave it under way."""

    def visit(self, recording: Recording) -> int:
        """Tick once; return how many jobs were given."""
        FlightRecorder(
            recording, loop=self, pool=self, sampler=self.sampler(), archive="/", busy=lambda: self.is_busy
        ).tick()  # type: ignore[arg-type]
        return len(self.jobs)

    def sampler(self) -> Any:
        real = Sampler()
        real.tick()
        return SimpleNamespace(vmstat=real.vmstat, psi=real.psi, tick=real.tick, distress=self.distress)


@pytest.mark.parametrize(
    ("what", "value"), [("idle", 0), ("is_busy", True), ("distress", Distress.MILD), ("distress", Distress.UNSETTLED)]
)
def test_recorder_visits_nobody_when_workers_are_needed(recording: Recording, what: str, value: object) -> None:
    """An incident, or a machine in distress, goes first."""
    stub = Stub()
    setattr(stub, what, value)
    assert stub.visit(recording) == 0
    assert Stub().visit(recording) == 1


def test_recorder_history_is_the_same_in_a_worker(recording: Recording, tmp_path: Path) -> None:
    """It was made before the workers were forked; rows that come later are seen, too."""
    from runner_lab import Lab

    from collector.runner.recorder_step import RecorderHistory

    pool = Pool(1, RuntimeSettings())
    pool.fill()
    try:
        recorder = Recorder(recording, Sampler(), str(tmp_path), lambda: pool.living)
        recorder.mark()
        lab = Lab(pool, tmp_path / "archive")
        done = lab.run(RecorderHistory())
        directory = tmp_path / "archive" / str(done.incident) / "step0"
        head, row = (json.loads(line) for line in (directory / "recorder.jsonl").read_bytes().splitlines())
        assert row[0] == read_second(recording.seconds.last() or b"").at_s
        assert len(row) == len(head["columns"])
        assert head["page_bytes"] == os.sysconf("SC_PAGE_SIZE")
    finally:
        pool.close()
