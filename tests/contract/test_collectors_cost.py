"""What every collector adds to the machine, measured in a real worker and compared with its footprint."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fake_core
import pytest
from collecting import core_ref, manual
from copying_fixtures import segment
from crowd import crowd
from loaded import loaded_process
from memory_group import MemoryGroup, memory_group

from collector.archive.store import Store
from collector.collectors.base import Collector
from collector.collectors.registry import COLLECTORS
from collector.config.spec import RuntimeSettings
from collector.host.identity import identify
from collector.model.copying import CopySettings
from collector.model.incident import StepStatus
from collector.model.marker import Marker
from collector.model.pressure import Budget, GateLimits, Policy, StepClass
from collector.model.redaction import Redaction
from collector.pipeline.steps import Pipeline
from collector.pressure.gate import SPARE_BYTES
from collector.runner.coroutine import drive
from collector.runner.incident_run import open_header
from collector.runner.light_job import READ
from collector.runner.pool import Claim, Pool
from collector.runner.protocol import Job, ReadStep, RunStep, WriteSpool
from collector.runner.replies import Done
from collector.triggers.manual import find_processes, manual_marker

MIB = 1 << 20
# The kernel charges memory in batches of 64 pages for each CPU, which a busy machine leaves half used.
BATCHES_BYTES = (os.cpu_count() or 1) * 64 * 4096
pytestmark = pytest.mark.root

LIGHT = [cls for cls in COLLECTORS.values() if cls.footprint.step_class is StepClass.LIGHT or cls.footprint.light_head]
OPEN = GateLimits(floor_bytes=0, on_pressure=Policy.PROCEED, wait_s=0.0)


class Lab:
    """One warm worker in a memory cgroup of its own, and an incident to write to."""

    def __init__(self, directory: Path, group: MemoryGroup | None = None, marker: Marker | None = None) -> None:
        self.pool = Pool(1, RuntimeSettings())
        self.pool.fill()
        time.sleep(0.1)  # let it fall asleep, warm
        self.claim = Claim()
        self.pool.serve(self.claim)
        self.claim.hold_memory()
        self.archive = str(directory / "archive")
        self.marker = manual_marker("test", find_processes([os.getpid()]), uid=0) if marker is None else marker
        header = open_header(
            (self.marker,), Pipeline(name="test", steps=()), identity=identify(), config_hash="-", now_s=time.time()
        )
        self.incident = header.id
        with Store(self.archive) as store:
            self.lock = store.begin(header)
        if group is not None:
            group.take(self.pool.pids[0])

    def perform(self, job: Job, *fds: int) -> Done:
        return drive(self.pool.perform(job, deadline_s=job_deadline_s(), claim=self.claim, fds=fds)).done

    def read_and_write(self, collector: Collector) -> Done:
        read = self.perform(
            ReadStep(
                step="step",
                collector=collector,
                marker=self.marker,
                deadline_s=job_deadline_s(),
                redaction=Redaction(),
                fresh=True,
            )
        )
        assert read.status in READ, read.reason
        return self.perform(
            WriteSpool(
                archive=self.archive,
                incident=self.incident,
                ends=(),
                reserve_bytes=0,
                copy=CopySettings(),
            ),
            *self.claim.memories,
        )

    def run(self, collector: Collector, marker: Marker | None = None) -> Done:
        return self.perform(
            RunStep(
                archive=self.archive,
                incident=self.incident,
                step="step",
                collector=collector,
                marker=marker or self.marker,
                deadline_s=job_deadline_s(),
                limits=OPEN,
                budget=Budget(step_class=StepClass.DIRECT, memory_bytes=0),
                reserve_bytes=0,
                copy=CopySettings(rate="max"),
                redaction=Redaction(),
            )
        )

    def close(self) -> None:
        self.pool.release_claim(self.claim)
        self.pool.close()
        os.close(self.lock)


def job_deadline_s() -> float:
    return time.monotonic() + 30.0


@contextmanager
def a_lab(directory: Path, group: MemoryGroup | None = None, marker: Marker | None = None) -> Iterator[Lab]:
    lab = Lab(directory, group, marker)
    try:
        yield lab
    finally:
        lab.close()


@contextmanager
def lab_in(directory: Path, marker: Marker | None = None) -> Iterator[tuple[Lab, MemoryGroup]]:
    with memory_group() as group, a_lab(directory, group, marker) as lab:
        yield lab, group


def test_every_collector_is_measured() -> None:
    """What a collector declares, the gate believes: a new one is light, or has an entry in `BULK` or `ELSEWHERE`."""
    light = {cls.name for cls in LIGHT if not cls.footprint.light_head}
    assert light | set(BULK) | set(ELSEWHERE) == set(COLLECTORS)
    for name, test in ELSEWHERE.items():
        path, _, function = test.partition("::")
        assert f"def {function}(" in (Path(__file__).parents[1] / path).read_text(encoding="utf-8"), name


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marker]:
    """A machine with 400 more processes, and a marker that names a large one."""
    with ExitStack() as stack:
        stack.enter_context(crowd(tmp_path_factory.mktemp("crowd"), 400))
        yield manual(stack.enter_context(loaded_process()))


@pytest.mark.parametrize("cls", LIGHT, ids=lambda cls: cls.name)
def test_light_collector_stays_within_its_footprint(cls: type[Collector], tmp_path: Path) -> None:
    """
    Read and written by a worker that is allowed no more than its footprint and what the gate keeps beside that.

    Counted is all that the kernel charges: private memory, page cache, and the slab that walking `/proc` fills.
    """
    measure(cls, tmp_path, None)


@pytest.mark.parametrize("cls", LIGHT, ids=lambda cls: cls.name)
def test_light_collector_stays_within_its_footprint_on_a_loaded_machine(
    cls: type[Collector], loaded: Marker, tmp_path: Path
) -> None:
    """So it does where the crashed process has hundreds of threads, thousands of mappings and 20 cgroups above it."""
    measure(cls, tmp_path, loaded)


def measure(cls: type[Collector], directory: Path, marker: Marker | None) -> None:
    with a_lab(directory, marker=marker) as before:
        before.read_and_write(cls())  # whatever it wants of libraries is in the page cache now, and nobody's
    with lab_in(directory, marker) as (lab, group):
        group.limit(cls.footprint.peak_bytes + SPARE_BYTES)
        lab.read_and_write(cls())
        print(f"{cls.name}: {group.peak_bytes / MIB:.2f} of {cls.footprint.peak_bytes / MIB:.0f} MiB")
        assert group.hits == 0, "nobody in it had to reclaim memory"
        assert group.peak_bytes <= cls.footprint.peak_bytes + BATCHES_BYTES


def shm(path: Path) -> Collector:
    given: dict[str, Any] = {"segments": (path.name,)}
    return COLLECTORS["shm"](**given)


def files(path: Path) -> Collector:
    given: dict[str, Any] = {"paths": (str(path),), "max_bytes": 1 << 40, "max_total": 1 << 40}
    return COLLECTORS["files"](**given)


def core(path: Path) -> Collector:
    given: dict[str, Any] = {"keep": "copy"}
    return COLLECTORS["core"](**given)


def command(path: Path) -> Collector:
    program = f"import os; data = bytes(1 << 16); [os.write(1, data) for _ in range({path.stat().st_size >> 16})]"
    given: dict[str, Any] = {"argv": (sys.executable, "-S", "-c", program), "max_output": 1 << 40}
    return COLLECTORS["command"](**given)


BULK = {make.__name__: make for make in (shm, files, core, command)}
"""How the collectors that are not light are made to take all of a file."""

ELSEWHERE = {"journal": "integration/test_journal_files.py::test_journal_stays_within_its_footprint"}
"""A worker reads this machine's journal, which may have none."""


@pytest.mark.parametrize("make", BULK.values(), ids=list(BULK))
def test_bulk_collector_adds_nothing_that_grows_with_the_bytes(make: Any, tmp_path: Path) -> None:
    """
    Sixteen times the data takes no more memory, and the limit is never reached, so that it causes no reclaim.

    A command's output is written as it comes, through the page cache: its budget includes the disk being slower.
    """
    peaks = {}
    for size in (MIB, 16 * MIB, 256 * MIB if make is not command else 32 * MIB):
        (tmp_path / str(size)).mkdir()
        with source(make, tmp_path, size) as path:
            collector = make(path)
            marker = manual(core=core_ref(str(path))) if make is core else None
            with lab_in(tmp_path / str(size), marker) as (lab, group):
                group.limit(collector.footprint.peak_bytes + SPARE_BYTES)
                done = lab.run(collector)
                assert (done.status, done.size_bytes >= size) == (StepStatus.OK, True), done.reason
                assert group.hits == 0
                peaks[size] = group.peak_bytes
                print(f"{collector.name} {size / MIB:.0f} MiB: {group.peak_bytes / MIB:.2f} MiB")
                assert group.peak_bytes <= collector.footprint.peak_bytes + BATCHES_BYTES
    if make is not command:
        # A cgroup is charged in batches of 64 pages a processor, and 240 MiB more through the cache would show as such.
        assert peaks[256 * MIB] - peaks[16 * MIB] <= 2 * MIB


@contextmanager
def source(make: Any, directory: Path, size: int) -> Iterator[Path]:
    """Make a segment or a file of *size* bytes, which is not in the page cache; for a core, with the head of one."""
    if make is shm:
        with segment(size) as path:
            yield path
        return
    path = directory / f"file-{size}"
    subprocess.run(["dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={size // MIB}", "oflag=direct"], check=True)
    if make is core:
        with path.open("r+b") as file:
            file.write(fake_core.core(fake_core.crash()))
    yield path
    path.unlink()


def test_copy_through_the_page_cache_meets_the_same_limit(tmp_path: Path) -> None:
    """The measurement can fail: `cp` of the same segment reaches the limit again and again."""
    with segment(64 * MIB) as path, memory_group() as group:
        group.limit(COLLECTORS["shm"].footprint.peak_bytes + SPARE_BYTES)
        shell = f"echo $$ > {group.path}/cgroup.procs; exec cp {path} {tmp_path}/copy"
        subprocess.run(["sh", "-c", shell], check=True)
        assert group.hits > 0
