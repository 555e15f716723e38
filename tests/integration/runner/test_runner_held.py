"""An incident of a process that the kernel really holds: what is taken in which order, and that it is always let go."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import held_segments
import msgspec
import pytest
from collecting import manual
from held import coredump_socket, held, next_held
from held_collectors import Dies, Dumper, Inherited, Lasts, Quick, Stuck
from runner_lab import Lab

from collector.collectors.core.core import Core
from collector.collectors.core.dump_content import CoreContent
from collector.collectors.process.process import ProcessDetails
from collector.collectors.shm.shm import Shm
from collector.config.spec import RuntimeSettings
from collector.copying.buffers import SPOOL_BYTES
from collector.daemon.loop import Loop
from collector.host.corehead import whole_bytes
from collector.host.held_process import DumpSource, HeldProcess
from collector.model.incident import IncidentState, Manifest, StepStatus
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.model.pressure import GateLimits, Policy, Tick
from collector.model.redaction import Redaction
from collector.model.units import Bytes, Seconds
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.bulk_phase import LET_GO
from collector.runner.coroutine import Task, drive, sleep
from collector.runner.held_phase import OTHERS
from collector.runner.parcel import unpacked
from collector.runner.pool import Pool
from collector.runner.protocol import Begin, HeldJob, Job, OpenFiles, Recover, Release
from collector.runner.recover_job import recover
from collector.runner.replies import Done
from collector.runner.runner import Runner
from collector.runner.worker_process import JobResult

pytestmark = pytest.mark.root
CRASH = [sys.executable, "-I", "-S", "-c", "import os; os.kill(os.getpid(), 11)"]
MANY_MAPS = """
import mmap, os
pages = [mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ if n % 2 else mmap.PROT_WRITE) for n in range(12000)]
os.kill(os.getpid(), 11)
"""
MANY_THREADS = """
import ctypes, os, sys, threading, time
count = int(sys.argv[1])
ready = threading.Barrier(count)
libc = ctypes.CDLL(None)
COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def deep(n):
    def compare(a, b):
        if n:
            deep(n - 1)
        else:
            ready.wait()
            time.sleep(600)
        return 0
    libc.qsort((ctypes.c_int * 2)(), 2, 4, COMPARE(compare))
threading.stack_size(1 << 20)
for _ in range(count - 1):
    threading.Thread(target=deep, args=(200 if sys.argv[2:] else 0,), daemon=True).start()
ready.wait()
time.sleep(0.1)
os.kill(os.getpid(), 11)
"""
ROOT = Path("/dev/shm")


@pytest.fixture
def lab(pool: Pool, scratch: Path) -> Lab:
    return Lab(pool, scratch / "archive")


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"collector-held-{os.getpid()}"
    yield chosen
    for left in ROOT.glob(f"{chosen}*"):
        left.unlink()


def of(crashed: HeldProcess) -> Marker:
    return msgspec.structs.replace(manual(crashed.process.pid), kind=MarkerKind.DUMP)


def is_gone(pidfd: int, seconds: float = 10.0) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def collect(lab: Lab, crashed: HeldProcess, *collectors: object, **how: object) -> Manifest:
    """Run the steps for *crashed*; it is gone when the incident is archived."""
    lab.held, lab.marker = (lambda: crashed), of(crashed)
    watched = os.dup(crashed.pidfd)
    try:
        manifest = lab.collect(*collectors, **how)
        assert not crashed.is_held
        assert is_gone(watched)
    finally:
        os.close(watched)
    return manifest


def status(manifest: Manifest) -> dict[str, tuple[StepStatus, str]]:
    return {step.collector: (step.status, step.reason) for step in manifest.steps}


def segments(lab: Lab, manifest: Manifest, step: str) -> dict[str, bytes]:
    rows = map(msgspec.json.decode, lab.content(manifest, f"{step}/segments.jsonl").splitlines())
    return {row["name"]: lab.content(manifest, f"{step}/{row['artifact']}") for row in rows if row.get("artifact")}


def test_everything_is_taken_in_the_order_of_what_it_needs(lab: Lab, name: str) -> None:
    """First read, then opened, then the dump, whatever the file says; segments are copied once the process is gone."""
    with held(held_segments.program(name)) as crashed:
        pid = crashed.process.pid
        manifest = collect(lab, crashed, Quick(), Lasts(pid=pid), Dumper(), Shm(), ProcessDetails())
    assert manifest.state is IncidentState.COMPLETE, status(manifest)
    assert lab.content(manifest, "step2/core").startswith(b"\x7fELF")
    assert segments(lab, manifest, "step3") == held_segments.expected(name)
    assert b"[stack]" in lab.content(manifest, f"step4/{pid}/maps")
    began = {step.collector: step.started_s for step in manifest.steps}
    assert began["process"] < began["shm"] < began["dumper"] < began["lasts"]
    assert lab.content(manifest, "step1/gone") == b"True"
    assert manifest.hold is not None
    assert (manifest.hold.seconds > 0, manifest.hold.ended) == (True, "its dump was received")


def test_process_in_namespaces_is_collected_and_not_the_hosts_segment(lab: Lab, name: str) -> None:
    (ROOT / name).write_bytes(b"the host's")
    with held(held_segments.in_namespaces(held_segments.program(name))) as crashed:
        manifest = collect(lab, crashed, Shm(), ProcessDetails(), Dumper())
    assert manifest.state is IncidentState.COMPLETE, status(manifest)
    assert segments(lab, manifest, "step0") == held_segments.expected(name)


def test_process_is_let_go_before_the_disk_is_asked_when_it_must_hurry(lab: Lab) -> None:
    """What a hurry takes is read into memory: a disk that others saturate may take seconds to make the directory."""
    with held(CRASH, hurry="memory is short") as crashed:
        manifest = collect(lab, crashed, Dumper(archive=str(lab.archive)))
    assert lab.content(manifest, "step0/hurry") == b"memory is short"
    assert lab.content(manifest, "step0/archive") == b"False"
    assert manifest.hold is not None
    assert manifest.hold.ended == "a part of its dump was taken: memory is short"


def test_hold_does_not_claim_a_part_of_a_dump_that_was_skipped(lab: Lab) -> None:
    limits = GateLimits(floor_bytes=Bytes(1 << 50), on_pressure=Policy.SKIP, wait_s=Seconds(0.0))
    with held(CRASH) as crashed:
        manifest = collect(lab, crashed, Dumper(), limits=limits)
    assert status(manifest)["dumper"][0] is StepStatus.SKIPPED
    assert manifest.hold is not None
    assert manifest.hold.ended.startswith("its dump was not taken: ")


def test_collector_that_takes_a_part_is_read_before_the_disk_is_asked(lab: Lab) -> None:
    with held(CRASH) as crashed:
        manifest = collect(lab, crashed, Dumper(archive=str(lab.archive), receives_dump=False))
    assert (lab.content(manifest, "step0/hurry"), lab.content(manifest, "step0/archive")) == (b"", b"False")
    assert manifest.hold is not None
    assert manifest.hold.ended == "its dump was taken"


@pytest.mark.parametrize("whole", [True, False])
def test_evidence_beyond_the_memory_is_read_before_the_process_is_let_go(lab: Lab, whole: bool) -> None:
    """Also if its dump is taken in part, which else comes before there is a directory."""
    with held([sys.executable, "-I", "-S", "-c", MANY_MAPS]) as crashed:
        pid = crashed.process.pid
        manifest = collect(lab, crashed, ProcessDetails(), Dumper(receives_dump=whole))
    assert status(manifest)["process"] == (StepStatus.OK, "")
    assert len(lab.content(manifest, f"step0/{pid}/smaps")) > SPOOL_BYTES
    assert lab.content(manifest, "step1/core").startswith(b"\x7fELF")


@pytest.mark.parametrize("threads", [33, 600])
def test_stacks_of_many_threads_are_whole(lab: Lab, threads: int) -> None:
    """They are more than fits into memory: cut there, a core is none to a debugger."""
    with held([sys.executable, "-I", "-S", "-c", MANY_THREADS, str(threads)]) as crashed:
        manifest = collect(lab, crashed, Core(content=CoreContent.STACKS))
    assert status(manifest)["core"] == (StepStatus.OK, "")
    assert whole_bytes(core := lab.content(manifest, "step0/core")) == len(core)


def test_deep_stacks_of_few_threads_fit_into_memory(lab: Lab) -> None:
    with held([sys.executable, "-I", "-S", "-c", MANY_THREADS, "20", "deep"]) as crashed:
        manifest = collect(lab, crashed, Core(content=CoreContent.STACKS))
    ended, why = status(manifest)["core"]
    assert (ended, "pages left out" in why) == (StepStatus.TRUNCATED, True)
    assert whole_bytes(core := lab.content(manifest, "step0/core")) == len(core)


def test_evidence_beyond_the_memory_is_not_silently_missing_in_a_hurry(lab: Lab) -> None:
    with held([sys.executable, "-I", "-S", "-c", MANY_MAPS], hurry="memory is short") as crashed:
        manifest = collect(lab, crashed, ProcessDetails(), Dumper())
    ended, why = status(manifest)["process"]
    assert ended is StepStatus.TRUNCATED
    assert why.startswith(LET_GO)


def test_dump_that_is_longer_than_the_memory_is_kept_to_its_end(lab: Lab) -> None:
    """Its head comes first: the notes, with all registers."""
    program = [sys.executable, "-I", "-S", "-c", "import os; kept = b'x' * (8 << 20); os.kill(os.getpid(), 11)"]
    with held(program, hurry="memory is short") as crashed:
        manifest = collect(lab, crashed, Dumper())
    core = lab.content(manifest, "step0/core")
    assert core.startswith(b"\x7fELF")
    assert SPOOL_BYTES - (64 << 10) < len(core) < SPOOL_BYTES
    assert manifest.steps[0].status is StepStatus.TRUNCATED
    assert "the memory for evidence, 3 MiB, is full" in manifest.steps[0].reason


class Stalling(Sampler):
    """What it hands on to the workers says that processes have been in direct reclaim for the last two seconds."""

    @property
    def ticks(self) -> tuple[Tick, ...]:
        last = self._history.ticks[-1]
        before = msgspec.structs.replace(last, taken_s=last.taken_s - 2.0, allocstall=last.allocstall - 100)
        return (before, last)


class Distressed(Sampler):
    """Finds the machine in distress."""

    def tick(self) -> None:
        super().tick()
        self._history.add(
            msgspec.structs.replace(self._history.ticks[-1], allocstall=self._history.ticks[-1].allocstall + 9)
        )


def test_distress_that_comes_meanwhile_ends_the_dump(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an ordinary copy would slow down or pause, the process is let go."""
    monkeypatch.setattr(lab, "runner", lambda: Runner(lab.pool, Stalling(), lab._receive))
    with held(CRASH) as crashed:
        manifest = collect(lab, crashed, Dumper())
    assert manifest.steps[0].status is StepStatus.TRUNCATED
    assert "allocstall rose by" in manifest.steps[0].reason
    assert manifest.hold is not None
    assert manifest.hold.ended.startswith("the step that took its dump is truncated: ")


def test_process_is_found_that_comes_to_be_held_during_a_bulk_copy(lab: Lab, name: str) -> None:
    """Its exit has opened the incident before: the other steps go on beside it, and nothing waits for the copy."""
    with held(held_segments.program(name)) as crashed:
        started: list[str] = []
        lab.on_event = lambda event: started.append(event.step) if isinstance(event, events.StepStarted) else None
        lab.marker = of(crashed)
        lab.held = lambda: crashed if started else None
        manifest = lab.collect(Lasts(pid=crashed.process.pid), Dumper(), Shm(), ProcessDetails())
    assert started[0] == "step0"
    assert lab.content(manifest, "step0/gone") == b"True"
    assert lab.content(manifest, "step1/core").startswith(b"\x7fELF"), status(manifest)
    assert segments(lab, manifest, "step2").keys() >= {name, "memfd:mapped"}


class SlowDisk(Pool):
    """Makes no directory for an incident before the process that it holds has been let go."""

    crashed: HeldProcess

    def perform(self, job: Job, **how: object) -> Task[JobResult]:  # type: ignore[override]
        while isinstance(job, Begin) and self.crashed.is_held and time.monotonic() < self.crashed.deadline_s:
            yield from sleep(0.01)
        return (yield from super().perform(job, **how))  # type: ignore[arg-type]


def test_process_is_let_go_in_time_when_the_disk_does_not_answer(scratch: Path) -> None:
    """A part of its dump is read on the spare worker, and written once there is a directory."""
    pool = SlowDisk(2, RuntimeSettings())
    pool.fill()
    lab, details = Lab(pool, scratch / "archive"), ProcessDetails(read_timeout=Seconds(0.25))
    try:
        with held(CRASH) as crashed:
            pool.crashed = crashed
            crashed.deadline_s = crashed.since_s + 2.0
            manifest = collect(lab, crashed, details, Dumper(archive=str(lab.archive)))
    finally:
        pool.close()
    assert (lab.content(manifest, "step1/hurry"), lab.content(manifest, "step1/archive")) == (OTHERS.encode(), b"False")
    assert status(manifest)["process"][0] is StepStatus.OK
    assert manifest.hold is not None
    assert manifest.hold.ended == f"a part of its dump was taken: {OTHERS}"


def test_process_is_let_go_when_its_worker_dies(lab: Lab) -> None:
    """The stream is lost; what came before is kept, and so are the segments, which another worker copies."""
    with held(CRASH) as crashed:
        manifest = collect(lab, crashed, Dies(), ProcessDetails(), Shm(), Quick())
    found = status(manifest)
    assert found["dies"][0] is StepStatus.FAILED
    assert "SIGKILL" in found["dies"][1]
    assert {found[name][0] for name in ("process", "shm", "quick")} == {StepStatus.OK}
    assert lab.content(manifest, "step0/first") == b"what it had"
    assert manifest.hold is not None
    assert manifest.hold.ended.startswith("the step that took its dump is failed: the worker died")


def test_worker_that_hangs_holds_nobody_beyond_the_limit(lab: Lab, tmp_path: Path) -> None:
    with held(CRASH) as crashed:
        crashed.deadline_s = time.monotonic() + 1.0
        manifest = collect(lab, crashed, Stuck(file=str(tmp_path / "stuck")), Quick())
    assert status(manifest)["stuck"] == (StepStatus.TIMEOUT, "the deadline passed")
    assert lab.content(manifest, "step0/first") == b"what it had"
    assert lab.content(manifest, "step0/in_time") == b"True"
    assert status(manifest)["quick"][0] is StepStatus.OK


def test_killed_daemon_lets_the_process_go(scratch: Path, tmp_path: Path) -> None:
    """Its workers die with it; the next start seals what there was."""
    archive, stuck = scratch / "archive", tmp_path / "stuck"
    with held(CRASH) as crashed:
        pid = os.fork()
        if pid == 0:
            run_until_killed(archive, crashed, Stuck(file=str(stuck)))
        watched = os.dup(crashed.pidfd)
        for fd in (crashed.stream_fd, crashed.pidfd):  # another process holds it now
            os.close(fd)
        crashed.held_s = 0.0
        try:
            wait_until(lambda: stuck.exists() and list(archive.glob("*/step1/*/maps")))  # written beside
            assert not is_gone(watched, 0.0)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert is_gone(watched)
        finally:
            os.close(watched)
    sealed = recover(Recover(archive=str(archive), now_s=time.time(), wait_s=10.0)).sealed
    ((incident, state),) = sealed.items()
    assert state is IncidentState.INTERRUPTED
    assert (archive / incident / "step0" / "first").read_bytes() == b"what it had"
    assert list((archive / incident / "step1").glob("*/maps"))


def run_until_killed(archive: Path, crashed: HeldProcess, collector: object) -> NoReturn:
    """Be a daemon: run an incident in this process, a fork of the test's."""
    try:
        pool = Pool(2, RuntimeSettings())
        pool.fill()
        lab = Lab(pool, archive)
        collect(lab, crashed, collector, ProcessDetails())
    finally:
        os._exit(1)


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_worker_that_is_forked_meanwhile_holds_nobody() -> None:
    pool = Pool(1, RuntimeSettings())
    try:
        with held(CRASH) as crashed:
            pool.fill()
            watched = os.dup(crashed.pidfd)
            assert drive(pool.perform(Release(pid=4000077), deadline_s=time.monotonic() + 10)).done is not None
            crashed.release("the test lets it go")
            gone = is_gone(watched)
            os.close(watched)
        assert gone
    finally:
        pool.close()


def test_dumps_are_received_one_at_a_time(scratch: Path, tmp_path: Path) -> None:
    """The second waits for its turn, but not beyond its own time: then a part of it is taken, beside the first."""
    pool = Pool(2, RuntimeSettings())
    pool.fill()
    lab, loop, done = Lab(pool, scratch / "archive"), Loop(), {}
    runner, stuck = lab.runner(), tmp_path / "stuck"

    def start(name: str, crashed: HeldProcess, collector: object) -> None:
        lab.marker, pipeline = of(crashed), lab.pipeline(collector)
        task = runner.incident(lab.header(pipeline), pipeline, lab.settings, held=lambda: crashed)
        loop.spawn(task, lambda outcome: ended(name, outcome))

    def ended(name: str, outcome: Done) -> None:
        done[name] = lab.manifest(outcome)
        if len(done) == 2:
            loop.stop()

    try:
        with coredump_socket() as listening, subprocess.Popen(CRASH) as one, subprocess.Popen(CRASH) as two:
            first, second = next_held(listening), next_held(listening)
            first.deadline_s, second.deadline_s = first.since_s + 4.0, second.since_s + 2.0
            start("first", first, Stuck(file=str(stuck)))

            def follow() -> None:
                if stuck.exists():
                    start("second", second, Dumper())
                else:
                    loop.call_later(0.05, follow)

            follow()
            loop.run()
            assert not first.is_held
            assert not second.is_held
            assert (one.wait(10), two.wait(10)) == (-signal.SIGSEGV, -signal.SIGSEGV)
    finally:
        pool.close()
    assert list(done) == ["second", "first"]
    assert lab.content(done["second"], "step0/hurry") == OTHERS.encode()
    assert status(done["first"])["stuck"][0] is StepStatus.TIMEOUT


def test_distress_at_the_start_takes_a_part_of_the_dump(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "runner", lambda: Runner(lab.pool, Distressed(), lab._receive))
    with held(CRASH) as crashed:
        manifest = collect(lab, crashed, Dumper(archive=str(lab.archive)))
    assert b"allocstall rose by" in lab.content(manifest, "step0/hurry")
    assert lab.content(manifest, "step0/archive") == b"False"


def test_process_whose_dump_nothing_takes_is_let_go_once_it_is_read(lab: Lab) -> None:
    with held(CRASH) as crashed:
        manifest = collect(lab, crashed, ProcessDetails(), Lasts(pid=crashed.process.pid))
    assert lab.content(manifest, "step1/gone") == b"True"
    assert manifest.hold is not None
    assert manifest.hold.ended == "no step takes its dump"


def test_program_that_a_worker_starts_gets_no_descriptor_of_its_job(pool: Pool) -> None:
    """It would hold the process for as long as it runs."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        job = OpenFiles(
            step="step0",
            collector=Inherited(),
            marker=manual(),
            deadline_s=time.monotonic() + 10,
            redaction=Redaction(),
            held=HeldJob(
                process=ProcessRef(pid=4000077), source=DumpSource.PIPE, since_s=0.0, deadline_s=0.0, hurry=""
            ),
        )
        fds = (ours.fileno(), ours.fileno(), theirs.fileno())
        result = drive(pool.perform(job, deadline_s=job.deadline_s, fds=fds))
        (found,) = [b"".join(artifact.body) for artifact in unpacked(ours.fileno())]  # type: ignore[arg-type]
    assert (result.done.status, found) == (StepStatus.OK, b"[]")
