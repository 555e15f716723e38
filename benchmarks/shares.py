"""
Whether two users who crash without a pause cost anybody else a crash.

    sudo python benchmarks/shares.py [SECONDS]

The shipped configuration, with directories of its own, and watching only the crashes of this script. Two users crash a
process a second each, under ever new names, and write ten cores a second each, for ten minutes. Every 75 s root and a
third user crash, too. Prints as JSON how many crashes were offered and what became of them, which steps of the others'
incidents are not complete and why, the memory of the daemon, and the longest time that it took to say its status.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import yaml

from collector.daemon.messages import Status, StatusRequest
from collector.daemon.requests import ask, connected

COLLECTOR = [sys.executable, "-m", "collector.cli.main"]
SHIPPED = Path(__file__).parents[1] / "config/collector.yaml"
SECONDS = 600.0
PERIOD_S = 75.0
FLOODING = (65534, 1000)
OTHERS = (0, 2000)
LIVES_S = 0.7
"""How long a process lives before it crashes: its name is then known."""

CORES_PER_S = 10
BEGINNING = "shr"
"""With what the names of the crashing processes begin."""


class Programs:
    """Processes that crash, told apart by their names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._alive: deque[tuple[float, int, subprocess.Popen[bytes]]] = deque()
        self.offered: Counter[int] = Counter()
        shutil.copy("/bin/sleep", directory / "sleep")

    def start(self, uid: int, name: str) -> None:
        """Start one as *uid*, which is going to crash `LIVES_S` later; of the flooding users, without a core."""
        program = self._directory / f"{BEGINNING}{name}"
        if not program.exists():
            os.link(self._directory / "sleep", program)
        # 1 is what even a handler to which the kernel pipes cores is spared. Source: fs/coredump.c
        limit, cwd = (1, "/") if uid in FLOODING else (resource.RLIM_INFINITY, self._directory / "cores" / str(uid))
        process = subprocess.Popen(
            [program, "60"],
            user=uid,
            cwd=cwd,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (limit, limit)),
        )
        self._alive.append((time.monotonic() + LIVES_S, uid, process))

    def crash(self, *, all_of_them: bool = False) -> None:
        """Crash those whose time has come."""
        while self._alive and (all_of_them or self._alive[0][0] <= time.monotonic()):
            at_s, uid, process = self._alive.popleft()
            time.sleep(max(0.0, at_s - time.monotonic()))
            process.send_signal(signal.SIGSEGV)
            process.wait()
            self.offered[uid] += 1


def configuration(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    config["archive"] |= {"path": str(directory / "archive"), "reserve": "0%"}
    config["runtime"] = {"directory": str(directory / "run")}
    cores, deaths, _ = config["triggers"]
    cores["paths"] = [str(directory / "cores"), *(str(directory / "cores" / str(uid)) for uid in OTHERS)]
    for rule in deaths["rules"]:
        rule["comm"] = [f"{BEGINNING}*"]
    config["triggers"] = [cores, deaths]
    return config


def put_core(directory: Path, uid: int, number: int) -> None:
    """Write a core as a handler does: complete, by a rename."""
    hidden = directory / "unfinished"
    hidden.write_bytes(b"\x7fELF" + b"\0" * 508)
    os.chown(hidden, uid, uid)
    hidden.rename(directory / "cores" / f"core.flood{uid}-{number}.4000077")


def status_s(directory: Path) -> float:
    """Return how long the daemon takes to answer what ``collector status`` asks."""
    start_s = time.monotonic()
    with connected(str(directory / "run")) as sock:
        assert any(isinstance(answer, Status) for answer in ask(sock, StatusRequest()))
    return time.monotonic() - start_s


def rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def flood(directory: Path, pid: int, seconds: float) -> dict[str, Any]:
    """Let the users crash; return what was offered, and what the daemon took meanwhile."""
    programs, cores, sizes, answers = Programs(directory), Counter[int](), [rss_kib(pid)], [status_s(directory)]
    start_s, crashes = time.monotonic(), 0
    tick_s = 1 / CORES_PER_S
    for tick in range(round(seconds * CORES_PER_S)):
        for uid in FLOODING:
            put_core(directory, uid, tick)
            cores[uid] += 1
            if tick % CORES_PER_S == 0:
                programs.start(uid, f"{uid}-{tick // CORES_PER_S}")
        if tick * tick_s >= 5 + crashes * PERIOD_S:
            for uid in OTHERS:
                programs.start(uid, f"{uid}-{crashes % 2}")
            crashes += 1
        if tick % CORES_PER_S == 0:
            sizes.append(rss_kib(pid))
            answers.append(status_s(directory))
        programs.crash()
        time.sleep(max(0.0, start_s + (tick + 1) * tick_s - time.monotonic()))
    programs.crash(all_of_them=True)
    time.sleep(20)  # the last ones are collected
    return {
        "seconds": round(time.monotonic() - start_s),
        "processes crashed": dict(programs.offered),
        "cores written": dict(cores),
        "daemon's RSS in KiB, first and most": (sizes[0], max(*sizes, rss_kib(pid))),
        "longest status in ms": round(1000 * max(answers)),
        "median status in ms": round(1000 * statistics.median(answers), 1),
    }


def results(directory: Path) -> dict[str, Any]:
    """Return, by real uid, the fates of all markers and the states of the incidents."""
    with closing(sqlite3.connect(f"file:{directory}/archive/ledger.sqlite?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT uid, fate, incident FROM markers").fetchall()
    events = []
    for line in (directory / "log").read_bytes().splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    states = {event["incident"]: event["state"] for event in events if event["event"] == "incident.archived"}
    others = {incident for uid, fate, incident in rows if uid in OTHERS and fate == "collected"}
    lacking = Counter(
        f"{event['step']}: {event.get('reason')}"
        for event in events
        if event.get("incident") in others and event.get("status") in {"truncated", "failed", "skipped", "timeout"}
    )
    fates = Counter((str(uid), fate) for uid, fate, _ in rows)
    collected = Counter((str(uid), states.get(incident)) for uid, fate, incident in rows if fate == "collected")
    return {
        "fates": {f"uid {uid} {fate}": count for (uid, fate), count in sorted(fates.items())},
        "incidents": {f"uid {uid} {state}": count for (uid, state), count in sorted(collected.items())},
        "not complete of the others'": lacking,
    }


def main(seconds: float) -> None:
    directory = Path(tempfile.mkdtemp(prefix="shares-", dir="/var/tmp"))
    directory.chmod(0o755)
    (directory / "cores").mkdir()
    for uid in OTHERS:
        (directory / "cores" / str(uid)).mkdir()
        os.chown(directory / "cores" / str(uid), uid, uid)
    config = directory / "collector.yaml"
    config.write_text(yaml.safe_dump(configuration(directory)), encoding="utf-8")
    with (directory / "log").open("wb") as log:
        daemon = subprocess.Popen([*COLLECTOR, "daemon", "--config", config], stderr=log, stdin=subprocess.DEVNULL)
    try:
        while b"daemon.started" not in (directory / "log").read_bytes():
            assert daemon.poll() is None, (directory / "log").read_text(encoding="utf-8")
            time.sleep(0.05)
        found = flood(directory, daemon.pid, seconds)
        print(json.dumps(found | results(directory), indent=2))
    finally:
        daemon.terminate()
        daemon.wait(60)
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else SECONDS)
