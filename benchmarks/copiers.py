"""The engine in a warm worker, and the tools that a user would pick instead."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from benchmarks.machine import GIB, PeakWatch, fields

WORKER = """
import json, os, sys
from collector.copying import buffers, engine
from collector.model.copying import CopySettings
import msgspec
from collector.host import process
from collector.config.spec import RuntimeSettings
process.set_io_class(RuntimeSettings().io_class)
os.nice(RuntimeSettings().nice)
buffers.warm()
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    open("/proc/self/clear_refs", "w").write("5")
    source = os.open(order["source"], os.O_RDONLY)
    target = os.open(order["target"], os.O_RDONLY)
    settings = msgspec.convert(order["settings"], CopySettings)
    report = engine.copy(source, directory_fd=target, name="copy", settings=settings)
    os.fsync(target)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps({"report": msgspec.to_builtins(report), "peak": peak}), flush=True)
    os.close(source), os.close(target)
"""


@dataclass
class CopyRun:
    """One run. Bytes and seconds."""

    seconds: float
    cpu_seconds: float
    cache_growth: int
    cache_left: int
    shmem_growth: int
    dirtied_pages: int
    peak_rss: int = 0
    page_tables: int = 0
    blocks: int = 0


@dataclass(frozen=True)
class CommandCopier:
    """A command; ``{source}``, ``{target}`` and ``{size}`` are substituted."""

    name: str
    argv: tuple[str, ...]

    def run(self, source: Path, target: Path, watch: PeakWatch) -> tuple[float, float, int]:
        size = source.stat().st_size
        argv = [word.format(source=source, target=target / "copy", size=size) for word in self.argv]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        watch.pid = child.pid
        output, error = child.communicate()
        seconds = self._seconds(output, time.monotonic() - started)
        if child.returncode:
            raise RuntimeError(f"{self.name}: {error.decode()}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return seconds, cpu, 0

    def _seconds(self, output: bytes, elapsed: float) -> float:  # noqa: ARG002
        return elapsed


class Fio(CommandCopier):
    """
    The upper limit: fio writes a small random buffer repeatedly and reads no source.

    It takes 0.3 s to start, so its own figure is used, which excludes that.
    """

    def _seconds(self, output: bytes, elapsed: float) -> float:
        job = json.loads(output[output.index(b"{") :])["jobs"][0]
        return float(min(elapsed, job["job_runtime"] / 1000))


class Engine:
    """The engine in a warm process, like a worker of the daemon."""

    def __init__(self, name: str, **settings: object) -> None:
        self.name, self.settings = name, settings
        self.report: dict[str, object] = {}
        self._child = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._child.stdout is not None
        self._child.stdout.readline()

    def run(self, source: Path, target: Path, watch: PeakWatch) -> tuple[float, float, int]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        watch.pid = self._child.pid
        order = {"source": str(source), "target": str(target), "settings": self.settings}
        started = time.monotonic()
        print(json.dumps(order), file=self._child.stdin, flush=True)
        answer = json.loads(self._child.stdout.readline())
        seconds = time.monotonic() - started
        self.report = answer["report"]
        return seconds, answer["report"]["cpu_seconds"], answer["peak"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


Copier = CommandCopier | Engine

CP = CommandCopier("cp + fsync", ("sh", "-c", "cp {source} {target} && sync {target}"))
SHUTIL = CommandCopier(
    "shutil.copyfile + fsync",
    (
        sys.executable,
        "-Sc",
        "import os,shutil; shutil.copyfile('{source}','{target}'); f=open('{target}'); os.fsync(f)",
    ),
)
DD = CommandCopier("dd 1M + fsync", ("dd", "if={source}", "of={target}", "bs=1M", "conv=fsync"))
DD_DIRECT = CommandCopier("dd 1M direct", ("dd", "if={source}", "of={target}", "bs=1M", "oflag=direct", "conv=fsync"))
COLLECTOR_COPY = CommandCopier(
    "collector copy, adaptive", (sys.executable, "-m", "collector.cli.main", "copy", "{source}", "{target}")
)
DD_DIRECT_8 = CommandCopier("dd 8M direct", ("dd", "if={source}", "of={target}", "bs=8M", "oflag=direct", "conv=fsync"))


def fio(depth: int) -> Fio:
    words = (
        "fio --name=limit --filename={target} --rw=write --bs=1M --size={size} --direct=1 --ioengine=io_uring"
        f" --iodepth={depth} --fallocate=posix --end_fsync=1 --output-format=json"
    )
    return Fio(f"fio io_uring QD {depth}", tuple(words.split()))


def measured(copier: Copier, source: Path, target: Path) -> CopyRun:
    """Copy once to a new file while watching the machine; remove the copy."""
    os.sync()
    before, memory = fields("/proc/vmstat"), fields("/proc/meminfo")
    watch = PeakWatch()
    with watch.watching():
        seconds, cpu, peak = copier.run(source, target, watch)
    after, memory_after = fields("/proc/vmstat"), fields("/proc/meminfo")
    left = (memory_after["Cached"] - memory_after["Shmem"]) - watch.cache_before
    blocks = (target / "copy").stat().st_blocks * 512
    (target / "copy").unlink()
    return CopyRun(
        seconds=seconds,
        cpu_seconds=cpu,
        cache_growth=max(0, watch.cache_peak - watch.cache_before),
        cache_left=left,
        shmem_growth=memory_after["Shmem"] - memory["Shmem"],
        dirtied_pages=after["nr_dirtied"] - before["nr_dirtied"],
        peak_rss=peak,
        page_tables=watch.pte_peak,
        blocks=blocks,
    )


def row(copier: Copier, results: list[CopyRun], data: int) -> dict[str, object]:
    """Return the medians of paired runs as a row of a table."""
    middle = {
        name: sorted(asdict(result)[name] for result in results)[len(results) // 2] for name in asdict(results[0])
    }
    found: dict[str, object] = {
        "copier": copier.name,
        "runs": len(results),
        "mib_per_s": round(data / (1 << 20) / middle["seconds"]),
        "cpu_s_per_gib": round(middle["cpu_seconds"] / (data / GIB), 3),
        "seconds": [round(result.seconds, 3) for result in results],
    }
    for name in ("cache_growth", "cache_left", "shmem_growth", "peak_rss", "page_tables", "blocks"):
        found[f"{name}_kib"] = middle[name] // 1024
    found["dirtied_pages"] = middle["dirtied_pages"]
    found["cpu_seconds"] = round(middle["cpu_seconds"], 3)
    return found
