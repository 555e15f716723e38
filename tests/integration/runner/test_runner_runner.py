"""The runner and its pool, with real workers and collectors that misbehave."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import msgspec
import pytest
from copying_fixtures import segment
from runner_lab import Lab

from collector.archive import directory, layout
from collector.archive.store import Store
from collector.collectors.base import Context
from collector.host.identity import identify
from collector.model.artifact import Artifact, Bulk, Footprint, NotApplicable, Truncated
from collector.model.conditions import Conditions
from collector.model.errors import StepError
from collector.model.incident import IncidentHeader, IncidentState, LeftOut, StepStatus
from collector.model.marker import MarkerKind
from collector.model.pressure import GateLimits, Policy, StepClass
from collector.model.retention import RetentionRules
from collector.model.units import Reserve
from collector.pipeline.steps import Pipeline, steps_for
from collector.runner import events
from collector.runner.coroutine import drive
from collector.runner.incident_run import open_header
from collector.runner.pool import Pool
from collector.runner.protocol import KeepClock, Prune, Recover
from collector.triggers.manual import manual_marker

STEP_CLASSES = (StepClass.LIGHT, StepClass.DIRECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fine:
    """Yields one artifact."""

    name: ClassVar[str] = "fine"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=0, timeout_s=5.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield Artifact(path=PurePosixPath("evidence"), body=b"evidence\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Huge:
    """Yields the file at *path*, and a small one."""

    name: ClassVar[str] = "huge"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=0, timeout_s=5.0)
    path: str

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield Artifact(path=PurePosixPath("huge"), body=Bulk(fd=os.open(self.path, os.O_RDONLY)))
        yield Artifact(path=PurePosixPath("evidence"), body=b"evidence\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """Yields one artifact and then does what *how* says."""

    name: ClassVar[str] = "bad"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=0, timeout_s=5.0)
    how: str

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield Artifact(path=PurePosixPath("before"), body=b"before\n")
        match self.how:
            case "sleep":
                time.sleep(60)
            case "raise":
                raise StepError("no evidence here", hint="look elsewhere")
            case "missing":
                raise Truncated("not there")
            case "not applicable":
                raise NotApplicable("there is none")
            case "bug":
                raise ZeroDivisionError("a bug")
            case "garbage":
                supervisor().send(b"\xffgarbage")
                time.sleep(60)
            case "long":
                supervisor().send(b'"' + b"x" * 100_000 + b'"')
                time.sleep(60)
            case "flood":
                while True:
                    supervisor().send(b'{"type":"progress","size_bytes":1}')
            case "escape":
                yield Artifact(path=PurePosixPath("..", "..", "escaped"), body=b"!")
            case "memory":
                # More than earlier tests may have left free in this process's heap, which is not limited again.
                yield Artifact(path=PurePosixPath("size"), body=str(len(bytearray(2 << 30))).encode())
            case "descriptors":
                held = [os.open("/dev/null", os.O_RDONLY) for _ in range(10_000)]
                yield Artifact(path=PurePosixPath("size"), body=str(len(held)).encode())
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case number:
                os.kill(os.getpid(), signal.Signals[number])


def supervisor() -> socket.socket:
    return socket.socket(fileno=os.dup(3))


@pytest.fixture(params=STEP_CLASSES)
def lab(pool: Pool, tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    """The same rules hold for evidence that is read first and written later, and for evidence that is streamed."""
    return Lab(pool, tmp_path / "archive", request.param)


def test_runner_archives_what_every_step_yields(lab: Lab) -> None:
    """The incident is complete, and its artifacts have digests."""
    outcome = lab.run(Fine(), Fine())
    manifest = lab.manifest(outcome)
    assert outcome.state is manifest.state is IncidentState.COMPLETE
    assert [step.status for step in manifest.steps] == [StepStatus.OK, StepStatus.OK]
    artifact = manifest.steps[0].artifacts[0]
    assert artifact.path == "step0/evidence"
    assert artifact.digest is not None
    assert (lab.archive / manifest.id / artifact.path).read_bytes() == b"evidence\n"
    assert not list(lab.archive.glob("*.partial"))


def test_runner_goes_on_after_a_step_outlives_its_deadline(lab: Lab) -> None:
    """Only the hung step is lost; what it had yielded is kept."""
    slow, fine = lab.steps(Bad(how="sleep"), Fine(), timeout_s=0.3)
    assert slow.status is StepStatus.TIMEOUT
    assert "deadline" in slow.reason
    assert [artifact.path for artifact in slow.artifacts] == ["step0/before"]
    assert fine.status is StepStatus.OK


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "SIGBUS"])
def test_runner_goes_on_after_a_worker_is_killed(lab: Lab, how: str) -> None:
    """The step names the signal; later steps run in the spare worker."""
    dead, fine = lab.steps(Bad(how=how), Fine())
    assert dead.status is StepStatus.FAILED
    assert how in dead.reason
    assert [artifact.path for artifact in dead.artifacts] == ["step0/before"]
    assert fine.status is StepStatus.OK


def test_runner_kills_a_worker_that_is_stopped(lab: Lab) -> None:
    """A stopped process does not answer; the deadline ends it."""
    stopped, fine = lab.steps(Bad(how="stop"), Fine(), timeout_s=0.3)
    assert stopped.status is StepStatus.TIMEOUT
    assert fine.status is StepStatus.OK


@pytest.mark.parametrize(("how", "said"), [("garbage", "an invalid"), ("long", "longer than"), ("flood", "more than")])
def test_runner_trusts_no_reply(lab: Lab, how: str, said: str) -> None:
    """A worker that sends nonsense fails its step and is replaced."""
    bad, fine = lab.steps(Bad(how=how), Fine(), timeout_s=20.0)
    assert bad.status is StepStatus.FAILED
    assert said in bad.reason
    assert fine.status is StepStatus.OK


@pytest.mark.parametrize(
    ("how", "status", "reason", "state"),
    [
        ("missing", StepStatus.TRUNCATED, "not there", IncidentState.INCOMPLETE),
        ("not applicable", StepStatus.NOT_APPLICABLE, "there is none", IncidentState.COMPLETE),
    ],
)
def test_runner_records_what_a_collector_says_at_its_end(
    lab: Lab, how: str, status: StepStatus, reason: str, state: IncidentState
) -> None:
    """What it yielded before is kept; what does not apply is not missing, and the run succeeds."""
    done = lab.run(Fine(), Bad(how=how))
    manifest = lab.manifest(done)
    step = manifest.steps[1]
    assert (step.status, step.reason, manifest.state, done.exit_code) == (status, reason, state, 0)
    assert [one.path for one in step.artifacts] == ["step1/before"]


def test_runner_records_what_a_collector_raises(lab: Lab) -> None:
    """A deliberate error has its hint; a bug is reported as one, and its worker replaced."""
    failed, bug, fine = lab.steps(Bad(how="raise"), Bad(how="bug"), Fine())
    assert (failed.status, failed.reason, failed.hint) == (StepStatus.FAILED, "no evidence here", "look elsewhere")
    assert "ZeroDivisionError" in bug.reason
    assert bug.hint is not None
    assert fine.status is StepStatus.OK


@pytest.mark.parametrize(("how", "said"), [("memory", "MemoryError"), ("descriptors", "Too many open files")])
def test_runner_limits_memory_and_descriptors_of_a_worker(lab: Lab, how: str, said: str) -> None:
    """RLIMIT_DATA and RLIMIT_NOFILE: a collector that runs away fails its step, not the machine."""
    failed, fine = lab.steps(Bad(how=how), Fine())
    assert failed.status is StepStatus.FAILED
    assert said in failed.reason
    assert fine.status is StepStatus.OK


def test_runner_refuses_an_artifact_path_outside_its_step(lab: Lab) -> None:
    """Paths are checked whatever the collector."""
    (escaped,) = lab.steps(Bad(how="escape"))
    assert escaped.status is StepStatus.FAILED
    assert not list(lab.archive.rglob("escaped"))


def test_runner_forks_a_worker_when_all_are_lost(lab: Lab) -> None:
    """After the death of both workers a third is forked, if the gate is open."""
    before = set(lab.pool.pids)
    *_, fine = lab.steps(Bad(how="SIGKILL"), Bad(how="SIGKILL"), Fine())
    assert fine.status is StepStatus.OK
    assert not before & {pid for pid in lab.pool.pids if Path(f"/proc/{pid}").exists()}


def test_runner_skips_what_the_incident_has_no_time_for(lab: Lab) -> None:
    """An incident has its own deadline."""
    slow, late = lab.steps(Bad(how="sleep"), Fine(), incident_s=0.3)
    assert slow.status is StepStatus.TIMEOUT
    assert late.status is StepStatus.SKIPPED
    assert "time was up" in late.reason


def test_runner_skips_a_step_below_the_floor(lab: Lab) -> None:
    """The verdict and its numbers are in the manifest."""
    greedy = GateLimits(floor_bytes=1 << 60, on_pressure=Policy.SKIP, wait_s=0.0)
    (skipped,) = lab.steps(Fine(), limits=greedy)
    assert skipped.status is StepStatus.SKIPPED
    assert skipped.verdict is not None
    assert skipped.verdict.floor_bytes == 1 << 60
    assert 0 < skipped.verdict.available_bytes < 1 << 60
    assert not skipped.artifacts


def test_runner_waits_for_the_gate_and_gives_up(lab: Lab) -> None:
    """`wait` samples again, for a limited time; the wait is reported and recorded."""
    greedy = GateLimits(floor_bytes=1 << 60, on_pressure=Policy.WAIT, wait_s=0.6)
    (skipped,) = lab.steps(Fine(), limits=greedy)
    assert skipped.verdict is not None
    assert skipped.verdict.waited_s >= 0.6
    assert any(isinstance(event, events.StepWaiting) for event in lab.events)


def test_runner_goes_on_after_a_file_that_is_too_long_for_any_disk(lab: Lab) -> None:
    """Any user can create one in /dev/shm: it must not cost the evidence after it."""
    with segment(0) as path:
        os.truncate(path, (1 << 63) - 1)
        (step,) = lab.steps(Huge(path=str(path)))
    assert step.status is StepStatus.TRUNCATED
    assert [artifact.path for artifact in step.artifacts] == ["step0/evidence"]


def test_recovery_keeps_what_it_cannot_read(lab: Lab) -> None:
    """An incident with a damaged header is reported and left alone, and does not block the others."""
    with Store(str(lab.archive)) as store:
        for number, damage in enumerate((b"{", b'{"version": 99}', None)):
            incident = f"2026112{number}T000000.000000Z-aaaaaa"
            os.close(store.begin(a_header(incident)))
            with store.incident(incident) as fd:
                directory.replace("evidence", b"evidence", fd)
                if damage is not None:
                    directory.replace(layout.HEADER, damage, fd)
    job = Recover(archive=str(lab.archive), now_s=time.time())
    done = drive(lab.pool.perform(job, deadline_s=time.monotonic() + 10)).done
    assert done.sealed == {"20261122T000000.000000Z-aaaaaa": IncidentState.INTERRUPTED}
    assert done.reason.count("cannot be sealed") == 2
    assert len(list(lab.archive.glob("*.partial/evidence"))) == 2


def test_recovery_keeps_the_state_in_an_existing_manifest(lab: Lab) -> None:
    """A run killed between manifest and rename had finished: it was not interrupted."""
    outcome = lab.run(Fine())
    assert outcome.incident is not None
    (lab.archive / outcome.incident).rename(lab.archive / f"{outcome.incident}.partial")
    job = Recover(archive=str(lab.archive), now_s=time.time())
    done = drive(lab.pool.perform(job, deadline_s=time.monotonic() + 10)).done
    assert done.sealed == {outcome.incident: IncidentState.COMPLETE}
    assert (lab.archive / outcome.incident).is_dir()


def test_prune_job_keeps_the_incident_to_spare(lab: Lab) -> None:
    """While a long copy ran, newer incidents may have been sealed."""
    first, second, third = (lab.run(Fine()).incident for _ in range(3))
    assert first
    rules = RetentionRules(count=1, age_s=None, size_bytes=None)
    job = Prune(archive=str(lab.archive), rules=rules, spare=first)
    assert drive(lab.pool.perform(job, deadline_s=time.monotonic() + 10)).done.ids == (second,)
    assert {path.name for path in lab.archive.iterdir()} == {first, third, layout.CLOCK}


def test_keep_clock_job_stores_the_archives_clock(lab: Lab) -> None:
    """What is not stored when the machine goes down does not count as age."""
    lab.run(Fine())
    path = lab.archive / layout.CLOCK
    before = msgspec.json.decode(path.read_bytes())
    job = KeepClock(archive=str(lab.archive))
    assert not drive(lab.pool.perform(job, deadline_s=time.monotonic() + 10)).done.reason
    after = msgspec.json.decode(path.read_bytes())
    assert (after["last_number"], after["clock_s"] > before["clock_s"]) == (1, True)


def test_runner_runs_a_step_whose_condition_a_later_marker_meets(lab: Lab) -> None:
    """
    A dump that takes longer than 0.5 s has no signal yet when its light evidence is read: the exit, or the core, brings
    it. The step is then run after all; one whose condition is still not met stays left out, with its reason.
    """
    announced = msgspec.structs.replace(manual_marker("test", (), uid=0), kind=MarkerKind.EXIT, trigger="deaths")
    exited = msgspec.structs.replace(announced, signal=11)
    known = [announced]
    lab.on_event = lambda event: known.append(exited) if isinstance(event, events.StepFinished) else None
    whole = lab.pipeline(Fine(), Fine(), Fine())
    conditions = (Conditions(), Conditions(signal=("SEGV",)), Conditions(signal=("ABRT",)))
    steps = tuple(replace(step, when=when) for step, when in zip(whole.steps, conditions, strict=True))
    pipeline = steps_for(replace(whole, steps=steps), announced)
    lab.marker = announced
    incident = lab.runner().incident(lab.header(pipeline), pipeline, lab.settings, markers=lambda: tuple(known))
    manifest = lab.manifest(drive(incident))
    assert {step.id: len(step.artifacts) for step in manifest.steps} == {"step0": 1, "step1": 1}
    assert (manifest.planned, manifest.state) == (("step0", "step1"), IncidentState.COMPLETE)
    assert manifest.left_out == (LeftOut(id="step2", reason="signal is unknown, not SIGABRT"),)


def a_header(incident: str) -> IncidentHeader:
    marker = manual_marker("test", (), uid=0)
    opened = open_header(
        (marker,), Pipeline(name="test", steps=()), identity=identify(), config_hash="-", now_s=time.time()
    )
    return msgspec.structs.replace(opened, id=incident)


def test_runner_refuses_an_archive_on_tmpfs(lab: Lab) -> None:
    """Writing there takes memory, which is short."""
    lab.archive = Path("/dev/shm", f"collector-test-{os.getpid()}", "archive")
    outcome = lab.run(Fine())
    assert not lab.archive.parent.exists()
    assert outcome.incident is None
    assert outcome.exit_code == 73
    assert "tmpfs" in outcome.reason


def test_runner_refuses_a_disk_below_its_reserve(lab: Lab) -> None:
    """Not even an incident's own records may take the disk below its reserve."""
    lab.reserve = Reserve(percent=100.0)
    outcome = lab.run(Fine())
    assert outcome.incident is None
    assert outcome.exit_code == 75


def test_runner_takes_markers_of_any_length(lab: Lab) -> None:
    """What a process supervisor reports may exceed a socket buffer; the incident is collected all the same."""
    said = {f"KEY{number}": "x" * 32_000 for number in range(20)}
    lab.marker = msgspec.structs.replace(manual_marker("test", (), uid=0), attributes=said)
    manifest = lab.manifest(lab.run(Fine()))
    assert manifest.state is IncidentState.COMPLETE
    assert manifest.markers[0].attributes == said


@pytest.mark.parametrize("moment", [events.IncidentOpened, events.StepFinished])
def test_runner_releases_the_lock_when_it_fails(lab: Lab, moment: type[events.AnyEvent]) -> None:
    """After an error in the supervisor, the incident's descriptor is closed and another run can seal it."""

    def fail(event: events.AnyEvent) -> None:
        if isinstance(event, moment):
            raise ZeroDivisionError("a bug")

    lab.on_event = fail
    with pytest.raises(ZeroDivisionError):
        lab.run(Fine())
    opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if path.startswith(str(lab.archive))]
    job = Recover(archive=str(lab.archive), now_s=time.time())
    assert len(drive(lab.pool.perform(job, deadline_s=time.monotonic() + 10)).done.sealed) == 1
