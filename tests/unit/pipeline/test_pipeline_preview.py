"""What a crash would lead to now."""

from __future__ import annotations

import mmap
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from collector.host.files import Host
from collector.model.knowledge import FACTS, NOTHING, Knowledge
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.model.pressure import Decision, DiskSample, NodeSample, Sample, StepClass
from collector.pipeline.compile import prepare
from collector.pipeline.preview import Match, StepFinding, find, forecast
from collector.pipeline.steps import Pipeline
from collector.triggers.registry import TRIGGERS

GIB = 1 << 30
MIB = 1 << 20
CORES = Knowledge(facts=frozenset(FACTS))


def sample(available: int = 8 * GIB, free: int = 100 * GIB) -> Sample:
    return Sample(
        taken_s=0.0, total_bytes=16 * GIB, mem_available_bytes=available, dirty_bytes=0, writeback_bytes=0,
        shmem_bytes=0, nodes=(NodeSample(node=0, room_bytes=available),),
        disk=DiskSample(free_bytes=free, total_bytes=200 * GIB, is_memory=False),
    )  # fmt: skip


def pipeline(directory: Path, *steps: str) -> Pipeline:
    text = "version: 1\npipelines:\n  crash:\n    steps:\n" + "".join(f"      - {step}\n" for step in steps)
    (directory / "c.yaml").write_text(text)
    return prepare(str(directory / "c.yaml"), TRIGGERS).pipelines["crash"]


def marker(**known: object) -> Marker:
    return Marker(kind=MarkerKind.EXIT, trigger="cores", at_s=time.time(), **known)  # type: ignore[arg-type]


def test_explain_says_which_condition_keeps_a_step_out(tmp_path: Path) -> None:
    """A step that does not apply to this crash says why, and costs nothing."""
    steps = pipeline(tmp_path, "{id: a, collector: dmesg}", "{id: b, collector: shm, when: {signal: [SIGBUS]}}")
    found = {"b": StepFinding(disk_bytes=GIB)}
    answer = forecast(steps, marker(signal=11), sample(), knows=CORES, archive="/a", reserve_bytes=0, findings=found)
    assert [step.condition for step in answer.steps] == [None, "signal is SIGSEGV, not SIGBUS"]
    assert [step.when for step in answer.steps] == ["", "signal is SIGBUS"]
    assert answer.disk_bytes == 0


def test_explain_knows_which_steps_can_never_run(tmp_path: Path) -> None:
    """However the crash is described: a trigger that cannot tell the unit never meets a condition on it."""
    steps = pipeline(tmp_path, "{id: a, collector: dmesg, when: {unit: [a.service]}}")
    crash = marker(unit="a.service")
    names = Knowledge(facts=frozenset({"comm"}))
    reasons = [
        forecast(steps, crash, sample(), knows=knows, archive="/a", reserve_bytes=0, findings={}).steps[0].left_out
        for knows in (CORES, names)
    ]
    assert reasons == [None, "cores cannot tell the unit"]


def test_explain_foretells_what_does_not_apply(tmp_path: Path) -> None:
    """A run by hand has no core, and without a PID no process; a process that was killed has no core."""
    steps = pipeline(tmp_path, *(f"{{id: {name}, collector: {name}}}" for name in ("core", "process", "shm", "dmesg")))
    reference = ProcessRef(pid=os.getpid())
    for crash, knows, ids in (
        (marker(), NOTHING, ["core", "process", "shm"]),
        (marker(process=reference), NOTHING, ["core"]),
        (marker(), CORES, []),
        (marker(signal=9), CORES, ["core"]),
    ):
        answer = forecast(steps, crash, sample(), knows=knows, archive="/a", reserve_bytes=0, findings={})
        assert [step.id for step in answer.steps if step.not_applicable] == ids


def test_explain_says_that_a_trigger_does_not_report_such_a_crash(tmp_path: Path) -> None:
    """What no marker is about is not collected, whatever the steps say."""
    knows = Knowledge(facts=frozenset(FACTS), signals=frozenset({11}))
    steps = pipeline(tmp_path, "{id: a, collector: dmesg}")
    unseen = [
        forecast(steps, marker(**known), sample(), knows=knows, archive="/a", reserve_bytes=0, findings={}).unseen
        for known in ({}, {"signal": 11}, {"signal": 9})
    ]
    assert unseen == [None, None, "cores does not report a death by SIGKILL"]


def test_explain_asks_the_gate_for_each_step(tmp_path: Path) -> None:
    """The verdict is the gate's own, with each step's budget and limits."""
    steps = pipeline(tmp_path, "{id: a, collector: dmesg}", "{id: b, collector: dmesg, pressure: {floor: 12GiB}}")
    answer = forecast(steps, marker(), sample(), knows=CORES, archive="/a", reserve_bytes=0, findings={})
    assert [step.verdict.decision for step in answer.steps] == [Decision.PROCEED, Decision.WAIT]
    assert answer.steps[1].verdict.floor_bytes == 12 * GIB
    assert [(step.verdict.step_class, step.reads_first) for step in answer.steps] == [
        (StepClass.LIGHT, True),
        (StepClass.LIGHT, False),
    ]


def test_explain_tells_when_bulk_does_not_fit(tmp_path: Path) -> None:
    """Disk space is summed over the steps that would run and compared with the reserve."""
    steps = pipeline(tmp_path, "{id: a, collector: shm}", "{id: b, collector: shm}")
    found = {name: StepFinding(disk_bytes=40 * GIB) for name in "ab"}
    answer = forecast(
        steps, marker(), sample(free=100 * GIB), knows=CORES, archive="/a", reserve_bytes=30 * GIB, findings=found
    )
    assert answer.disk_bytes == 80 * GIB
    assert not answer.fits
    one_fits = forecast(
        steps, marker(), sample(), knows=CORES, archive="/a", reserve_bytes=10 * GIB, findings={"a": found["a"]}
    )
    assert one_fits.fits


@dataclass
class Segment:
    """A sparse segment that this process has mapped: 1 MiB of data in 16 MiB."""

    name: str


@pytest.fixture
def segment() -> Iterator[Segment]:
    name = f"collector-explain-{uuid.uuid4().hex}"
    fd = os.open(f"/dev/shm/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(fd, 16 * MIB)
        os.pwrite(fd, b"x" * MIB, 0)
        with mmap.mmap(fd, 16 * MIB):
            yield Segment(name)
    finally:
        os.close(fd)
        os.unlink(f"/dev/shm/{name}")


def own(found: StepFinding, segment: Segment) -> list[Match]:
    return [match for match in found.matches if match.name == f"/dev/shm/{segment.name}"]


def test_explain_finds_the_segments_of_a_live_process(segment: Segment, tmp_path: Path) -> None:
    """The segments that this process has mapped, with what would be copied of them; holes are not."""
    steps = pipeline(tmp_path, "{id: a, collector: shm}")
    (match,) = own(find(steps, marker(process=ProcessRef(pid=os.getpid())), Host())["a"], segment)
    assert (match.size_bytes, match.data_bytes, match.bytes_to_copy) == (16 * MIB, MIB, MIB)


def test_explain_finds_segments_by_the_command_name(segment: Segment, tmp_path: Path) -> None:
    """A described crash is assumed to be like the living processes of that name."""
    comm = Path("/proc/self/comm").read_text().strip()
    steps = pipeline(tmp_path, "{id: a, collector: shm, with: {max_each: 64KiB}}")
    found = find(steps, marker(comm=comm), Host())["a"]
    assert own(found, segment)[0].bytes_to_copy == 64 << 10
    assert found.unknown is None


def test_explain_says_what_only_a_crash_can_tell(segment: Segment, tmp_path: Path) -> None:
    """Without a description the crashed process's segments are unknown; globs are known, less what is excluded."""
    steps = pipeline(
        tmp_path,
        f"{{id: a, collector: shm, with: {{segments: ['{segment.name}']}}}}",
        f"{{id: b, collector: shm, with: {{segments: ['{segment.name}'], exclude: ['*-explain-*']}}}}",
    )
    found = find(steps, marker(), Host())
    assert len(own(found["a"], segment)) == 1
    (excluded,) = own(found["b"], segment)
    assert (excluded.not_taken, excluded.bytes_to_copy, found["b"].disk_bytes) == ("excluded", 0, 0)
    assert found["a"].unknown is not None


def test_explain_finds_files_and_their_caps(tmp_path: Path) -> None:
    """The same files as the step would take, with its limits for each and for all."""
    for number in range(3):
        (tmp_path / f"{number}.log").write_bytes(b"x" * 10_000)
    paths = f"['{tmp_path}/*.log']"
    steps = pipeline(
        tmp_path, f"{{id: a, collector: files, with: {{paths: {paths}, max_bytes: 4KiB, max_total: 10KiB}}}}"
    )
    found = find(steps, marker(), Host())["a"]
    assert sorted(match.bytes_to_copy for match in found.matches) == [0, 4096, 4096]
    assert {match.not_taken for match in found.matches} == {"", "beyond max_total"}
    assert found.disk_bytes == 8192
