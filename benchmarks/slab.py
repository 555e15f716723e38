"""
What reading all processes costs the kernel: the growth of the slab, at its peak and afterwards.

Opening files of ``/proc/PID`` leaves inodes and dentries behind. Each reader runs beside crowds of idle processes; the
dentries and inodes of earlier readers are dropped first. The collector's step is already imported when it begins, as in
a worker, and the workers of the whole incident are warm; `ps` and `sos` are started each time, and what that costs
shows beside the smallest crowd.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import MIB, fields, run

CROWDS = (100, 5_000, 10_000)
OTHERS = 1_000
"""Allowance for all other processes."""

PERIOD_S = 0.01
SETTLE_S = 1.0
"""The kernel frees inodes and dentries after a grace period; what is left is measured after this time."""

FORKER = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char end;
	pid_t parent = getpid();
	setpgid(0, 0);
	for (int i = atoi(argv[1]); i; i--) {
		pid_t pid = fork();
		if (pid < 0)
			return 1;
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() == parent)
				pause();
			_exit(0);
		}
	}
	write(1, "all\n", 4);
	read(0, &end, 1);
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	while (wait(0) > 0)
		;
	return 0;
}
"""
STEP = """
import sys, time
from collector.collectors.base import Context
from collector.collectors.process_table.process_table import ProcessTable
from collector.host.files import Host
from collector.model.marker import Marker, MarkerKind
marker = Marker(kind=MarkerKind.MANUAL, trigger="benchmark", at_s=time.time())
print("ready", flush=True)
sys.stdin.readline()
context = Context(host=Host(sys.argv[1]), marker=marker, deadline_s=time.monotonic() + 600)
for artifact in ProcessTable().collect(context):
    try:
        for piece in artifact.body:
            pass
    except Exception as exc:
        print(exc, file=sys.stderr)
"""


INCIDENT = """
import sys, time
from collector.host.identity import identify
from collector.pipeline.generation import generate
from collector.runner.incident_run import open_header
from collector.runner.coroutine import drive
from collector.triggers.manual import manual_marker
from collector.runner.pool import Pool
from collector.runner.runner import Runner
from collector.pressure.sampler import Sampler
from collector.triggers.registry import TRIGGERS
generation = generate(None, TRIGGERS, archive=sys.argv[1])
pool = Pool(2, generation.loaded.config.runtime)
pool.fill()
pipeline = generation.pipeline(None)
header = open_header((manual_marker("", (), uid=0),), pipeline, identity=identify(), config_hash="", now_s=time.time())
runner = Runner(pool, Sampler(), lambda event: None)
print("ready", flush=True)
sys.stdin.readline()
drive(runner.incident(header, pipeline, generation.settings))
pool.close()
"""

ON_A_LINE = 'echo ready; read -r _; exec "$@" > /dev/null'


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReader:
    """A command that reads all processes; it prints "ready", and begins when it receives a line."""

    name: str
    argv: tuple[str, ...]
    most_runs: int = 100


def ours(name: str, *before: str, root: str = "/") -> ProcessReader:
    """Return the collector's step; with another *root* than ``/`` it reads that ``/proc`` directly and in full."""
    return ProcessReader(name=name, argv=(*before, sys.executable, "-c", STEP, root))


def theirs(name: str, *argv: str, most_runs: int = 100) -> ProcessReader:
    """Return another program, started by a waiting shell."""
    return ProcessReader(name=name, argv=("sh", "-c", ON_A_LINE, "sh", *argv), most_runs=most_runs)


def readers(scratch: Path) -> list[ProcessReader]:
    """Return all readers that this machine has."""
    found = [
        ProcessReader(
            name="collector, the whole default incident",
            argv=(sys.executable, "-c", INCIDENT, str(scratch / "archive")),
        ),
        ours("collector, procfs of its own"),
        ours("collector without CAP_SYS_ADMIN", "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"),
        ours("collector as it was: /proc, in full", root="/."),
        theirs("ps -eo pid,comm,args", "ps", "-eo", "pid,comm,args"),
    ]
    if shutil.which("sos") is None:
        print("without sos; on Debian: apt-get install sosreport", file=sys.stderr)
    else:
        sos = ("sos", "report", "--batch", "--quiet", "-o", "process", "--tmp-dir", str(scratch))
        found.append(theirs("sos report -o process", *sos, most_runs=3))
    return found


def rounds(scratch: Path, runs: int) -> list[dict[str, Any]]:
    """Measure every reader beside every crowd in turn; return medians in MiB and seconds."""
    (scratch / "crowd.c").write_text(FORKER)
    run("gcc", "-O1", "-static", "-o", scratch / "crowd", scratch / "crowd.c")
    found = []
    for processes in CROWDS:
        measured: dict[str, list[dict[str, float]]] = {}
        with crowd(scratch / "crowd", processes):
            for number in range(runs):
                for reader in readers(scratch):
                    if number < reader.most_runs:
                        measured.setdefault(reader.name, []).append(growth(reader))
        for name, each in measured.items():
            medians = {key: round(statistics.median(one[key] for one in each), 2) for key in each[0]}
            found.append({"reader": name, "processes": processes, "runs": each} | medians)
    return found


@contextlib.contextmanager
def crowd(program: Path, processes: int) -> Iterator[None]:
    """Keep *processes* idle processes; their parent ends them when its input ends."""
    with (
        at_least("pid_max", processes + OTHERS),
        at_least("threads-max", processes + OTHERS),
        subprocess.Popen([program, str(processes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent,
    ):
        assert parent.stdout is not None
        if parent.stdout.readline() != b"all\n":
            raise RuntimeError(f"cannot fork {processes} processes: see pids.max of the cgroup")
        yield


@contextlib.contextmanager
def at_least(name: str, value: int) -> Iterator[None]:
    """Raise a kernel limit temporarily."""
    path = Path("/proc/sys/kernel", name)
    before = path.read_text()
    if int(before) < value:
        path.write_text(str(value))
    try:
        yield
    finally:
        if int(before) < value:
            path.write_text(before)


def growth(reader: ProcessReader) -> dict[str, float]:
    """Run *reader* once; return the growth of the slab at its peak and afterwards."""
    with subprocess.Popen(
        reader.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", reader.name
        Path("/proc/sys/vm/drop_caches").write_text("2")
        before = settled()
        with peak() as seen:
            begun_s = time.monotonic()
            process.stdin.write(b"begin\n")
            process.stdin.close()
            assert process.wait() == 0, reader.name
            seconds = time.monotonic() - begun_s
        time.sleep(SETTLE_S)
        left = slab()
    return {
        "peak_mib": round((max(seen) - before) / MIB, 2),
        "left_mib": round((left - before) / MIB, 2),
        "seconds": round(seconds, 2),
    }


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """Sample the slab until the end."""
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(PERIOD_S):
            seen.append(slab())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.append(slab())


def settled() -> int:
    """Return the slab's bytes once they are stable, or after half a minute: others use the machine, too."""
    after = slab()
    for _ in range(30):
        before = after
        time.sleep(SETTLE_S)
        after = slab()
        if abs(after - before) < MIB // 4:
            break
    return after


def slab() -> int:
    """Return the bytes of all slabs."""
    memory = fields("/proc/meminfo")
    return memory["SReclaimable"] + memory["SUnreclaim"]
