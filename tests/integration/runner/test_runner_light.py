"""The light phase with real workers: evidence is read first, written later, and survives the worker that read it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import msgspec
import pytest
from runner_lab import Lab

from collector.collectors.base import Context
from collector.config.spec import RuntimeSettings
from collector.copying.buffers import SPOOL_BYTES
from collector.daemon.loop import Loop
from collector.host.process import URGENT_NICE
from collector.model.artifact import Artifact, Bulk, Footprint, HeldUse, NotApplicable, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.incident import IncidentState, StepStatus
from collector.model.pressure import GateLimits, Policy, StepClass
from collector.pipeline.steps import Pipeline
from collector.runner import events
from collector.runner.bulk_phase import ENDED
from collector.runner.pool import Claim, Pool
from collector.runner.replies import Done

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Yields its process id, its niceness, and whether the archive exists yet."""

    name: ClassVar[str] = "witness"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1, timeout_s=5.0)
    archive: str

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        said = f"{os.getpid()} {os.getpriority(os.PRIO_PROCESS, 0)} {os.path.exists(self.archive)}"
        yield Artifact(path=PurePosixPath("said"), body=said.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectWitness:
    """The same, as a bulk step."""

    name: ClassVar[str] = "direct_witness"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=1, timeout_s=5.0)
    archive: str

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield from Witness(archive=self.archive).collect(ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Yields one stream of each kind that a collector may yield."""

    name: ClassVar[str] = "streams"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1, timeout_s=5.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        source = SourceInfo(path="/proc/x", uid=3, mtime_ns=7, xattrs={"a": "b"})
        yield Artifact(path=PurePosixPath("bytes"), body=b"b" * 70_000, source=source, media="binary")
        yield Artifact(path=PurePosixPath("empty"), body=b"")
        yield Artifact(path=PurePosixPath("below", "stream"), body=(b"one\n", b"two\n"), truncated="max_bytes")
        yield Artifact(path=PurePosixPath("cut"), body=self._cut())
        yield Artifact(path=PurePosixPath("last"), body=b"last\n")

    def _cut(self) -> Iterator[bytes]:
        yield b"some\n"
        raise Truncated("no more of it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """Yields *count* artifacts of a MiB each: more than fits into the memory for evidence."""

    name: ClassVar[str] = "large"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1, timeout_s=10.0)
    count: int

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        for number in range(self.count):
            yield Artifact(path=PurePosixPath(str(number)), body=(bytes([number]) * 65_536 for _ in range(16)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dying:
    """Reads a process that is gone by the time its evidence is streamed; of what fits into memory, *early* MiB."""

    name: ClassVar[str] = "dying"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.LIGHT, peak_bytes=1, timeout_s=10.0, held=HeldUse.READ
    )
    early: int

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        if not ctx.in_memory:
            yield Artifact(path=PurePosixPath("inventory"), body=b"gone\n")
            raise NotApplicable("it had ended")
        for number in range(self.early):
            yield Artifact(path=PurePosixPath(str(number)), body=bytes(MIB))
        yield Artifact(path=PurePosixPath("large"), body=bytes(SPOOL_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadAndBulk:
    """Yields a small artifact, the file at *path* and another small one; with *fails*, raises after the first."""

    name: ClassVar[str] = "head_and_bulk"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.DIRECT, peak_bytes=1, timeout_s=5.0, light_head=True
    )
    path: str
    fails: bool = False

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield Artifact(path=PurePosixPath("notes"), body=f"read by {os.getpriority(os.PRIO_PROCESS, 0)}".encode())
        if self.fails:
            raise StepError("the file is gone")
        yield Artifact(path=PurePosixPath("bulk"), body=Bulk(fd=os.open(self.path, os.O_RDONLY)))
        yield Artifact(path=PurePosixPath("behind"), body=b"behind\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dies:
    """Yields one artifact and kills its worker."""

    name: ClassVar[str] = "dies"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1, timeout_s=5.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield Artifact(path=PurePosixPath("before"), body=b"before\n")
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """A bulk step that ends when there is a file at *until*."""

    name: ClassVar[str] = "waits"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=1, timeout_s=30.0)
    until: str

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        while not os.path.exists(self.until):
            time.sleep(0.01)
        yield Artifact(path=PurePosixPath("waited"), body=b"")


@pytest.fixture
def lab(pool: Pool, tmp_path: Path) -> Lab:
    return Lab(pool, tmp_path / "archive")


def test_light_steps_are_read_before_the_incident_has_a_directory(lab: Lab) -> None:
    """Whatever their order in the file, bulk begins when all light evidence is read and written."""
    archive = str(lab.archive)
    manifest = lab.collect(DirectWitness(archive=archive), Witness(archive=archive), Witness(archive=archive))
    said = {step.id: lab.content(manifest, f"{step.id}/said").decode().split() for step in manifest.steps}
    assert (said["step0"][2], said["step1"][2], said["step2"][2]) == ("True", "False", "False")
    assert manifest.state is IncidentState.COMPLETE
    assert [step.id for step in manifest.steps] == ["step1", "step2", "step0"]
    assert said["step1"][0] == said["step2"][0], "one worker reads all, with one memory"
    kinds = [type(event) for event in lab.events]
    assert kinds.index(events.EvidenceRead) < kinds.index(events.IncidentOpened) < kinds.index(events.StepFinished)


@pytest.mark.root
def test_light_steps_are_read_before_others_and_bulk_is_nice(lab: Lab) -> None:
    """Busy loops must not delay 30 ms of reading, and a copy must not delay anybody."""
    archive = str(lab.archive)
    for _ in range(2):  # the priority is given back after each step
        manifest = lab.collect(Witness(archive=archive), DirectWitness(archive=archive))
        nice = [int(lab.content(manifest, f"step{n}/said").split()[1]) for n in range(2)]
        assert nice == [URGENT_NICE, RuntimeSettings().nice]


def test_light_artifacts_arrive_as_their_collector_yielded_them(lab: Lab) -> None:
    """Bytes, source, media and truncation are as if they had been streamed; each has the time when it was read."""
    before_s = time.time()
    manifest = lab.collect(Streams())
    (step,) = manifest.steps
    found = {artifact.path.removeprefix("step0/"): artifact for artifact in step.artifacts}
    assert {name: lab.content(manifest, f"step0/{name}") for name in found} == {
        "bytes": b"b" * 70_000,
        "empty": b"",
        "below/stream": b"one\ntwo\n",
        "cut": b"some\n",
        "last": b"last\n",
    }
    facts = found["bytes"]
    assert (facts.source, facts.source_uid, facts.source_mtime_ns, facts.media) == ("/proc/x", 3, 7, "binary")
    assert facts.source_xattrs == {"a": "b"}
    assert {name for name, artifact in found.items() if artifact.truncated} == {"below/stream", "cut"}
    assert found["cut"].truncated_reason == "no more of it"
    assert found["below/stream"].truncated_reason == "max_bytes"
    assert (step.status, step.reason.count("no more of it")) == (StepStatus.TRUNCATED, 1)
    assert all(artifact.digest for name, artifact in found.items() if name != "empty")
    moments = [artifact.read_s for artifact in step.artifacts]
    assert moments == sorted(moments)
    opened_s = next(lab.archive.glob("*/incident.json")).stat().st_mtime
    assert before_s <= moments[0] <= moments[-1] <= opened_s + 0.02  # file systems stamp with the last timer tick


def test_light_evidence_that_does_not_fit_is_streamed(lab: Lab) -> None:
    """What fits is read first, and only once; the rest follows, before any bulk."""
    count = 5
    manifest = lab.collect(Large(count=count), Witness(archive=str(lab.archive)))
    large, witness = (next(step for step in manifest.steps if step.id == name) for name in ("step0", "step1"))
    assert (large.status, witness.status) == (StepStatus.OK, StepStatus.OK)
    assert [artifact.path for artifact in large.artifacts] == [f"step0/{n}" for n in range(count)]
    assert all(lab.content(manifest, f"step0/{n}") == bytes([n]) * MIB for n in range(count))
    fitted = SPOOL_BYTES // MIB - 1  # beside their heads
    assert lab.content(manifest, "step1/said").endswith(b"False"), "the next step still has room and is read first"
    read_s = [artifact.read_s for artifact in large.artifacts]
    assert read_s[fitted - 1] < witness.artifacts[0].read_s < read_s[fitted]
    finished = [event for event in lab.events if isinstance(event, events.StepFinished)]
    assert {(event.end.id, event.artifacts) for event in finished} == {("step0", count), ("step1", 1)}


@pytest.mark.parametrize(
    ("early", "status", "reason"),
    [(1, StepStatus.TRUNCATED, f"{ENDED}; it had ended"), (0, StepStatus.NOT_APPLICABLE, "it had ended")],
)
def test_process_that_ends_before_all_is_streamed_is_not_read_whole(
    lab: Lab, early: int, status: StepStatus, reason: str
) -> None:
    """It lived while a part was read: the rest is missing. Of one that was never read, nothing is."""
    (step,) = lab.collect(Dying(early=early)).steps
    assert (step.status, step.reason) == (status, reason)
    assert len(step.artifacts) == early + 1


def test_light_head_of_a_bulk_step_is_read_first(lab: Lab, tmp_path: Path) -> None:
    """A core's notes are small: they do not wait for its file, and are not archived twice."""
    (tmp_path / "bulk").write_bytes(b"x" * MIB)
    manifest = lab.collect(HeadAndBulk(path=str(tmp_path / "bulk")), Witness(archive=str(lab.archive)))
    step = next(step for step in manifest.steps if step.id == "step0")
    assert (step.status, step.verdict and step.verdict.step_class) == (StepStatus.OK, StepClass.DIRECT)
    assert [artifact.path for artifact in step.artifacts] == ["step0/notes", "step0/bulk", "step0/behind"]
    witness = next(step for step in manifest.steps if step.id == "step1").artifacts[0]
    assert step.artifacts[0].read_s < witness.read_s < step.artifacts[1].read_s
    assert lab.content(manifest, "step0/bulk") == b"x" * MIB


def test_light_head_that_fails_lets_its_step_run_later(lab: Lab, tmp_path: Path) -> None:
    """What was read before the failure is kept, and the step reports the error once."""
    (step,) = lab.collect(HeadAndBulk(path=str(tmp_path / "bulk"), fails=True)).steps
    assert (step.status, step.reason) == (StepStatus.FAILED, "the file is gone")
    assert [artifact.path for artifact in step.artifacts] == ["step0/notes"]


def test_light_evidence_outlives_the_workers_that_read_it(lab: Lab) -> None:
    """A read that kills its worker fails its own step only: the supervisor still has the memory."""
    archive = str(lab.archive)
    manifest = lab.collect(Witness(archive=archive), Dies(), Witness(archive=archive), Dies(), Witness(archive=archive))
    status = {step.id: step.status for step in manifest.steps}
    assert [status[f"step{n}"] for n in (0, 2, 4)] == [StepStatus.OK] * 3
    assert [status[f"step{n}"] for n in (1, 3)] == [StepStatus.FAILED] * 2
    pids = {lab.content(manifest, f"step{n}/said").split()[0] for n in (0, 2, 4)}
    assert len(pids) == 3, "three workers, three memories"
    assert lab.content(manifest, "step1/before") == lab.content(manifest, "step3/before") == b"before\n"


@pytest.mark.parametrize("moment", [events.EvidenceRead, events.IncidentOpened])
def test_light_evidence_outlives_a_worker_killed_between_reading_and_writing(
    lab: Lab, moment: type[events.AnyEvent]
) -> None:
    """The OOM killer takes workers first: another one writes what was read, and nothing left over in its own memory."""
    lab.collect(Many(number=1))
    used = Claim()
    lab.pool.serve(used)  # the next incident fills the other worker's memory
    lab.collect(Many(number=1))
    lab.pool.release_claim(used)

    def kill(event: events.AnyEvent) -> None:
        if isinstance(event, moment):
            for pid in lab.pool.busy:
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    lab.on_event = kill
    manifest = lab.collect(Streams(), Witness(archive=str(lab.archive)))
    statuses = {step.id: step.status for step in manifest.steps}
    assert statuses == {"step0": StepStatus.TRUNCATED, "step1": StepStatus.OK}, "Streams is cut on purpose"
    assert {artifact.path for step in manifest.steps for artifact in step.artifacts} == {
        "step0/bytes", "step0/empty", "step0/below/stream", "step0/cut", "step0/last", "step1/said",
    }  # fmt: skip


def test_light_evidence_outlives_a_worker_killed_while_it_writes(lab: Lab) -> None:
    """Half of it is on disk, some without a record: it is written again, and archived once."""
    killed = threading.Event()

    def kill_when_it_writes() -> None:
        while not killed.is_set():
            for records in lab.archive.glob("*.partial/artifacts.jsonl"):
                if records.stat().st_size > 20_000:
                    for pid in lab.pool.busy:
                        os.kill(pid, signal.SIGKILL)
                    killed.set()

    thread = threading.Thread(target=kill_when_it_writes)
    thread.start()
    try:
        manifest = lab.collect(*(Many(number=n) for n in range(8)))
    finally:
        killed.set()
        thread.join()
    assert manifest.state is IncidentState.COMPLETE
    paths = [artifact.path for step in manifest.steps for artifact in step.artifacts]
    assert sorted(paths) == sorted({f"step{step}/{n}" for step in range(8) for n in range(50)})
    assert all(lab.content(manifest, f"step{step}/{n}") == bytes([step, n]) for step in range(8) for n in range(50))


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """Yields fifty small artifacts."""

    name: ClassVar[str] = "many"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1, timeout_s=10.0)
    number: int

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        for n in range(50):
            yield Artifact(path=PurePosixPath(str(n)), body=bytes([self.number, n]))


def test_incident_waits_once_for_all_of_its_steps(lab: Lab) -> None:
    """All steps of an incident share one wait."""
    lab.limits = GateLimits(floor_bytes=1 << 60, on_pressure=Policy.WAIT, wait_s=0.5)
    manifest = lab.collect(*(Witness(archive=str(lab.archive)) for _ in range(5)))
    assert [step.status for step in manifest.steps] == [StepStatus.SKIPPED] * 5
    assert sum(isinstance(event, events.StepWaiting) for event in lab.events) == 1
    waited_s = [step.verdict.waited_s for step in manifest.steps if step.verdict]
    assert waited_s[0] >= 0.5
    assert set(waited_s) == {waited_s[0]}


class Both:
    """Two incidents in one loop."""

    def __init__(self, lab: Lab, first: Pipeline, second: Pipeline) -> None:
        self.lab = lab
        self.runner = lab.runner()
        self.loop = Loop()
        self.outcomes: dict[str, Done] = {}
        self.headers = {"first": lab.header(first), "second": lab.header(second)}
        self.pipelines = {"first": first, "second": second}

    def start(self, name: str) -> None:
        task = self.runner.incident(self.headers[name], self.pipelines[name], self.lab.settings)
        self.loop.spawn(task, lambda outcome: self._ended(name, outcome))

    def _ended(self, name: str, outcome: Done) -> None:
        self.outcomes[name] = outcome
        if len(self.outcomes) == 2:
            self.loop.stop()

    def reported(self, name: str) -> list[type]:
        return [type(event) for event in self.lab.events if event.incident == self.headers[name].id]


def test_light_evidence_of_a_second_incident_is_read_beside_the_bulk_of_the_first(lab: Lab, tmp_path: Path) -> None:
    """A crash during a long copy is read immediately, on the spare worker; its own bulk is copied afterwards."""
    go = tmp_path / "go"
    bulk = Waits(until=str(go))
    both = Both(
        lab, lab.pipeline(bulk), lab.pipeline(Witness(archive=str(tmp_path / "none")), Waits(until=str(tmp_path)))
    )

    def begin_second(event: events.AnyEvent) -> None:
        if isinstance(event, events.StepStarted) and event.incident == both.headers["first"].id:
            both.loop.call_later(0.0, lambda: both.start("second"))
        if isinstance(event, events.StepFinished) and event.incident == both.headers["second"].id and not go.exists():
            assert event.end.id == "step0"
            assert events.StepFinished not in both.reported("first")
            both.loop.call_later(0.3, go.touch)

    lab.on_event = begin_second
    both.start("first")
    both.loop.run()
    assert {outcome.state for outcome in both.outcomes.values()} == {IncidentState.COMPLETE}
    order = [(event.incident, type(event)) for event in lab.events]
    first, second = both.headers["first"].id, both.headers["second"].id
    assert order.index((first, events.StepFinished)) < order.index((second, events.StepStarted))
    manifest = lab.manifest(both.outcomes["second"])
    assert manifest.steps[0].artifacts[0].read_s < lab.manifest(both.outcomes["first"]).ended_s


def test_incident_that_waits_for_its_turn_is_sealed_when_the_program_stops(lab: Lab, tmp_path: Path) -> None:
    """SIGTERM during a long copy: both incidents are sealed, the waiting one with its light evidence."""
    both = Both(
        lab,
        lab.pipeline(Waits(until=str(tmp_path / "never"))),
        lab.pipeline(Witness(archive=str(tmp_path)), Waits(until=str(tmp_path))),
    )

    def stop(event: events.AnyEvent) -> None:
        if isinstance(event, events.StepStarted) and event.incident == both.headers["first"].id:
            both.loop.call_later(0.0, lambda: both.start("second"))
        if isinstance(event, events.StepFinished) and event.incident == both.headers["second"].id:
            both.loop.call_later(0.0, lambda: lab.pool.stop(time.monotonic()))

    lab.on_event = stop
    both.start("first")
    both.loop.run()
    assert {outcome.state for outcome in both.outcomes.values()} == {IncidentState.INTERRUPTED}
    steps = lab.manifest(both.outcomes["second"]).steps
    assert [(step.id, step.status) for step in steps] == [("step0", StepStatus.OK), ("step1", StepStatus.SKIPPED)]


def test_events_survive_json(lab: Lab) -> None:
    """They are sent to the client that asked for the run."""
    lab.collect(Witness(archive=str(lab.archive)))
    read = next(event for event in lab.events if isinstance(event, events.EvidenceRead))
    assert msgspec.json.decode(msgspec.json.encode(read), type=events.AnyEvent) == read
    assert read.steps == ("step0",)
