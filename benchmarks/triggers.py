"""
How soon a crash is recorded, and what watching for crashes costs while nothing happens.

    sudo python benchmarks/triggers.py [latency] [idle] [storm]

*latency*: from the close of a core, or the exit of a process, to its marker on disk: the row in the ledger
and ``incident.json`` of the incident, according to the ledger and the daemon's log. All by the same wall clock; the
time of the crash is taken just before it.

*idle*: CPU time of the whole daemon (workers included) with every trigger on, while other processes fork
1,000 times a second, and while they also exec.

*storm*: 10,000 cores in about 10 s: CPU time, memory, and the longest time that ``status`` took meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

COLLECTOR = [sys.executable, "-m", "collector.cli.main"]
CONFIG = """
version: 1
archive: {{path: {directory}/archive, reserve: 0%, keep: {{count: 100000}}}}
pressure: {{floor: 64MiB}}
runtime: {{directory: {directory}/run}}
storm:
  coalesce: {coalesce}
  queue: 1000
  per_executable: {{count: {count}, window: 1h}}
  per_uid: {{count: {count}, window: 1h}}
  total: {{count: {count}, window: 1h}}
triggers:
  - {{id: cores, type: core_files, paths: ["{directory}/cores"], pipeline: light}}
  - {{id: dropped, type: exit_files, paths: ["{directory}/drop"], pipeline: light}}
  - {{id: told, type: notify, pipeline: light}}
  - {{id: exits, type: process_exits, rules: [{{comm: [victim], signals: [KILL]}}], pipeline: light}}
  - {{id: kernel, type: kernel_log, events: [oops], pipeline: light}}
  - {{id: starving, type: memory_pressure, window: 2s, pipeline: light}}
pipelines:
  light:
    steps: [{{id: memory, collector: proc_files}}]
"""
FORKER = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	int rate = atoi(argv[1]), seconds = atoi(argv[2]), exec = atoi(argv[3]);
	struct timespec next;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (int i = 0; i < rate * seconds; i++) {
		pid_t pid = exec ? vfork() : fork();
		if (pid == 0) {
			if (exec)
				execl("/bin/true", "true", (char *)0);
			_exit(0);
		}
		waitpid(pid, 0, 0);
		next.tv_nsec += 1000000000L / rate;
		if (next.tv_nsec >= 1000000000L) { next.tv_nsec -= 1000000000L; next.tv_sec++; }
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, 0);
	}
	return 0;
}
"""


@contextlib.contextmanager
def daemon(directory: Path, *, coalesce: str = "0s", count: int = 1_000_000) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon with every trigger on."""
    for name in ("cores", "drop"):
        (directory / name).mkdir()
    config = directory / "collector.yaml"
    config.write_text(CONFIG.format(directory=directory, coalesce=coalesce, count=count))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COLLECTOR, "daemon", "--config", str(config)], stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            while b"daemon.started" not in (directory / "log").read_bytes():
                assert process.poll() is None, (directory / "log").read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait(60)


def family(pid: int) -> list[int]:
    """Return the daemon and its workers."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def cpu_s(pids: list[int]) -> float:
    """Return the CPU time of processes."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def latency(directory: Path, rounds: int = 100) -> dict[str, list[float]]:
    """Return milliseconds from the event to the row in the ledger, and to the incident's first file."""
    rows: dict[str, list[float]] = {}
    victim = directory / "victim"
    victim.symlink_to("/bin/sleep")
    with daemon(directory):
        time.sleep(1)
        for number in range(rounds):
            with open(directory / "cores" / f"core.{number}", "wb") as core:
                core.write(b"x" * 4096)
                core.flush()
                begun_s = time.time()
            record(rows, directory, "core's close", begun_s)
            child = subprocess.Popen([str(victim), "60"])
            time.sleep(0.6)
            begun_s = time.time()
            child.kill()
            child.wait()
            record(rows, directory, "process exit", begun_s)
    return rows


def record(rows: dict[str, list[float]], directory: Path, what: str, begun_s: float) -> None:
    """Wait for the next marker and its incident, and record how long each took."""
    database = f"file:{directory}/archive/ledger.sqlite?mode=ro"
    while True:
        with contextlib.closing(sqlite3.connect(database, uri=True)) as db:
            found = db.execute(
                "SELECT at_s, incident FROM markers WHERE fate = 'collected' AND at_s >= ?", (begun_s,)
            ).fetchone()
        if found:
            break
        time.sleep(0.005)
    rows.setdefault(f"{what} to the ledger's row", []).append((found[0] - begun_s) * 1000)
    for line in (directory / "log").read_text().splitlines():
        if '"incident.opened"' in line and found[1] in line:  # logged once incident.json is written and synced
            opened_s = datetime.fromisoformat(json.loads(line)["at"]).timestamp()
            rows.setdefault(f"{what} to incident.json", []).append((opened_s - begun_s) * 1000)


def idle(directory: Path, seconds: int = 20) -> dict[str, float]:
    """Return the daemon's CPU use in percent of one core."""
    (directory / "forker.c").write_text(FORKER)
    subprocess.run(["gcc", "-O1", "-o", directory / "forker", directory / "forker.c"], check=True)
    shares = {}
    with daemon(directory) as process:
        time.sleep(2)
        for what, arguments in (
            ("nothing", None),
            ("1,000 forks/s", ("1000", str(seconds), "0")),
            ("1,000 fork+exec/s", ("1000", str(seconds), "1")),
        ):
            before_s, begun_s = cpu_s(family(process.pid)), time.monotonic()
            if arguments is None:
                time.sleep(seconds)
            else:
                subprocess.run([directory / "forker", *arguments], check=True)
            shares[what] = 100 * (cpu_s(family(process.pid)) - before_s) / (time.monotonic() - begun_s)
    return shares


def storm(directory: Path, count: int = 10_000) -> dict[str, float]:
    """Return what 10,000 cores in 10 s cost."""
    with daemon(directory, coalesce="5s", count=5) as process:
        pids, before_s, slowest_s = family(process.pid), cpu_s(family(process.pid)), 0.0
        before_bytes = rss(process.pid)
        begun_s = time.monotonic()
        for number in range(count):
            (directory / "cores" / f"core.{number}").write_bytes(b"x")
            if number % 1000 == 0:
                slowest_s = max(slowest_s, status_s(directory))
            time.sleep(max(0.0, begun_s + number * 10 / count - time.monotonic()))
        while rows_of(directory) < count:
            slowest_s = max(slowest_s, status_s(directory))
            time.sleep(0.1)
        return {
            "seconds": time.monotonic() - begun_s,
            "rows": rows_of(directory),
            "CPU seconds": cpu_s(pids) - before_s,
            "growth of the supervisor, MiB": (rss(process.pid) - before_bytes) / (1 << 20),
            "slowest status, ms": slowest_s * 1000,
            "incidents": len(list((directory / "archive").glob("*/manifest.json"))),
        }


def rows_of(directory: Path) -> int:
    """Return the rows of the ledger."""
    with contextlib.closing(sqlite3.connect(f"file:{directory}/archive/ledger.sqlite?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM markers").fetchone()[0])


def status_s(directory: Path) -> float:
    """Request the status; return how many seconds the answer took."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(directory / "run" / "control.sock"))
        begun_s = time.monotonic()
        client.send(b'{"type":"status"}')
        client.recv(65_536)
        return time.monotonic() - begun_s


def rss(pid: int) -> int:
    """Return resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run the named benchmarks, by default all."""
    asked = sys.argv[1:] or ["latency", "idle", "storm"]
    for name in asked:
        with tempfile.TemporaryDirectory(prefix="collector-bench-") as directory:
            if name == "latency":
                for what, values in latency(Path(directory)).items():
                    values.sort()
                    p99 = values[int(len(values) * 0.99) - 1]
                    print(f"{what}: median {statistics.median(values):.1f} ms, p99 {p99:.1f} ms of {len(values)}")
            else:
                figures = idle(Path(directory)) if name == "idle" else storm(Path(directory))
                print(name, json.dumps({what: round(value, 2) for what, value in figures.items()}))


if __name__ == "__main__":
    main()
