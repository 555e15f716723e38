"""The daemon as shipped, on a disk of the benchmark and in its own cgroups."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
CONFIG = HERE.parent / "config" / "collector.yaml"
UNIT = HERE.parent / "systemd" / "collector.service"
CGROUPS = Path("/sys/fs/cgroup")
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
LOCK = "/tmp/core_pattern.lock"
"""The lock of the end-to-end tests: none of them sets ``core_pattern`` meanwhile."""

DROP_IN = """\
version: 1
archive: {{path: {disk}/archive}}
triggers:
  - {{id: cores, paths: ["{disk}/cores"]}}
storm:        # as shipped: 5, 10 and 20, fewer than there are runs
  per_executable: {{count: 10000}}
  per_uid: {{count: 10000}}
  total: {{count: 10000}}
"""
"""The differences from the shipped configuration. Cores and archive are on one disk, as in ``/var``."""

ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}")
STARTED_S, STOPPED_S, POLL_S = 30, 60, 0.1


class ShippedDaemon:
    """
    ``collector daemon`` with the shipped configuration and the settings of its unit, as far as they can be applied
    here.

    MemoryHigh has no counterpart in cgroup v1, and without CAP_SYS_RESOURCE ``oom_score_adj`` stays 0.

    Args:
        disk: For archive and cores.
        scratch: For the configuration, the log and the runtime directory.
        cpu: The cgroup of the cpu controller to run in, if any.
        more: Further changes of the configuration, as YAML of a drop-in.
    """

    def __init__(self, disk: Path, scratch: Path, *, cpu: Path | None = None, more: str = "") -> None:
        self.archive, self.cores, self.log = disk / "archive", disk / "cores", scratch / "log"
        self._scratch, self._disk, self._cpu, self._more = scratch, disk, cpu, more
        self._config = scratch / "collector.yaml"
        lines = UNIT.read_text().splitlines()
        self._unit = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.cores.mkdir(mode=0o755, exist_ok=True)
        shutil.copyfile(CONFIG, self._config)
        (self._scratch / "conf.d").mkdir(exist_ok=True)
        (self._scratch / "conf.d" / "benchmark.yaml").write_text(DROP_IN.format(disk=self._disk))
        (self._scratch / "conf.d" / "more.yaml").write_text(f"version: 1\n{self._more}")
        with self._stack as stack:
            self._memory = stack.enter_context(cgroup("memory", "daemon"))
            (self._memory / "memory.limit_in_bytes").write_text(self._unit["MemoryMax"])
            self._unified = stack.enter_context(cgroup("unified", "daemon"))
            if self._cpu is not None:
                shares = int(self._unit.get("CPUWeight", 100)) * 1024 // 100  # systemd.resource-control(5)
                (self._cpu / "cpu.shares").write_text(str(shares))
            stack.callback(self.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it while memory is plentiful, and wait until it is ready."""
        daemon = [sys.executable, "-m", "collector.cli.main", "daemon", "--config", str(self._config)]
        with self.log.open("ab") as log:
            began = log.tell()
            self._process = subprocess.Popen(
                ["ionice", "-c", self._unit.get("IOSchedulingClass", "none"), *daemon],
                env={**os.environ, "RUNTIME_DIRECTORY": str(self._scratch / "run")},
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # an interrupt is for the benchmark alone
                preexec_fn=self._as_in_the_unit,
            )
        end_s = time.monotonic() + STARTED_S
        while b"daemon.started" not in self.log.read_bytes()[began:]:
            if not self.runs or time.monotonic() > end_s:
                raise RuntimeError(f"the daemon did not start: {self.log.read_text()}")
            time.sleep(POLL_S)
        time.sleep(1)

    def stop(self) -> None:
        """Stop it and kill what is left of its workers."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOPPED_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stalled_ms(self) -> float:
        """Return how many ms any of its processes has waited for memory so far."""
        some = (self._unified / "memory.pressure").read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1000

    def sealed(self, pid: int, limit_s: float) -> dict[str, Any] | None:
        """Wait for the incident of process *pid*; return its manifest, or ``None`` if there is none in time."""
        end_s = time.monotonic() + limit_s
        seen: set[str] = set()
        while time.monotonic() < end_s and self.runs:
            for name in set(self._incidents()) - seen:
                seen.add(name)
                with contextlib.suppress(FileNotFoundError):  # deleted by retention
                    manifest: dict[str, Any] = json.loads((self.archive / name / "manifest.json").read_text())
                    if any(_about(marker, pid) for marker in manifest["markers"]):
                        return manifest
            time.sleep(POLL_S)
        return None

    def unfinished(self, pid: int) -> dict[str, Any] | None:
        """Return the journal of the unfinished incident of *pid* in the form of a manifest."""
        for partial in self.archive.glob("*.partial"):
            with contextlib.suppress(FileNotFoundError, ValueError):  # just sealed; a line half written
                header: dict[str, Any] = json.loads((partial / "incident.json").read_text())
                if any(_about(marker, pid) for marker in header["markers"]):
                    artifacts = _lines(partial / "artifacts.jsonl")
                    steps = _lines(partial / "steps.jsonl")
                    for step in steps:
                        step["artifacts"] = [artifact for artifact in artifacts if artifact["step"] == step["id"]]
                    return header | {"steps": steps}
        return None

    def clear(self) -> None:
        """Delete all archived incidents, as operations.md allows, and the cores."""
        for name in self._incidents():
            shutil.rmtree(self.archive / name, ignore_errors=True)
        for core in self.cores.iterdir():
            core.unlink(missing_ok=True)

    def _incidents(self) -> list[str]:
        return [name for name in os.listdir(self.archive) if ID.fullmatch(name)]

    def _as_in_the_unit(self) -> None:
        for group in (self._memory, self._unified, self._cpu):
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))
        os.nice(int(self._unit.get("Nice", 0)))
        os.umask(int(self._unit["UMask"], 8))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(PermissionError):
            Path("/proc/self/oom_score_adj").write_text(self._unit["OOMScoreAdjust"])


def _about(marker: dict[str, Any], pid: int) -> bool:
    core = (marker.get("core") or {}).get("path", "")
    return core.endswith(f".{pid}") or (marker.get("process") or {}).get("pid") == pid


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextlib.contextmanager
def cgroup(controller: str, name: str) -> Iterator[Path]:
    """Make a cgroup; all processes in it must have ended when the block does."""
    path = CGROUPS / controller / f"collector-bench-{name}-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                path.rmdir()
                break
            time.sleep(POLL_S)


@contextlib.contextmanager
def core_pattern(pattern: Path | str) -> Iterator[None]:
    """Set the kernel's pattern for cores, by default of names in a directory; restore the previous one afterwards."""
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = CORE_PATTERN.read_text()
        try:
            CORE_PATTERN.write_text(f"{pattern}/core.%e.%p" if isinstance(pattern, Path) else pattern)
            yield
        finally:
            CORE_PATTERN.write_text(before)
