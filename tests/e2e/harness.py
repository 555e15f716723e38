"""A real daemon, real crashes, real cores."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collector.daemon.messages import Reply, Request, RunRequest, Status, StatusRequest
from collector.daemon.requests import ask, connected

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "config" / "collector.yaml"
COLLECTOR = [sys.executable, "-m", "collector.cli.main"]


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Poll until *condition* is true; return what it returned."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"after {timeout_s} s still no {what}")


class Daemon:
    """A running ``collector daemon`` with directories of its own."""

    def __init__(self, directory: Path, config: str) -> None:
        self.directory = directory
        self.archive = directory / "archive"
        self.cores = directory / "cores"
        self.runtime = directory / "run"
        self.log = directory / "log"
        self.config = directory / "collector.yaml"
        self.cores.mkdir(mode=0o1777, exist_ok=True)
        self.cores.chmod(0o1777)
        self.config.write_text(
            config.format(archive=self.archive, cores=self.cores, runtime=self.runtime, directory=directory)
        )
        self.command = COLLECTOR
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *prefix: str) -> None:
        """Start it and wait until it watches."""
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [*prefix, *COLLECTOR, "daemon", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(lambda: self.failed() or b"daemon.started" in self.log.read_bytes()[before:], "daemon.started")
        assert not self.failed(), self.log.read_text()

    def failed(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(40)

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line against this daemon's configuration."""
        command = [*COLLECTOR, *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def incidents(self) -> list[dict[str, Any]]:
        """Return the manifests of all sealed incidents, oldest first."""
        return [json.loads(path.read_text()) for path in sorted(self.archive.glob("*Z-??????/manifest.json"))]

    def wait_for_incidents(self, count: int, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """Wait until so many are sealed."""
        return wait_for(lambda: (found := self.incidents())[count - 1 :] and found, f"{count} incidents", timeout_s)


CONFIG = """
version: 1
archive: {{path: {archive}, reserve: 0%}}
pressure: {{floor: 64MiB}}
runtime: {{directory: {runtime}}}
storm: {{coalesce: 0s}}
triggers:
  - {{id: cores, type: core_files, paths: ["{cores}"], match: ["core*"], pipeline: crash}}
pipelines:
  crash:
    steps:
      - {{id: memory, collector: proc_files}}
      - {{id: processes, collector: process_table}}
      - {{id: kernel_log, collector: dmesg}}
      - {{id: core, collector: core}}
      - {{id: segments, collector: shm, timeout: 60s, with: {{from: crashed_process}}}}
"""


def shipped(daemon: Daemon) -> str:
    """Return the shipped configuration, its directories replaced by the test's."""
    return (
        SHIPPED.read_text()
        .replace("/var/lib/collector", str(daemon.archive), 1)
        .replace("[/var/crash, /var/lib/systemd/coredump]", f"[{daemon.cores}]")
        + f"\nruntime: {{directory: {daemon.runtime}}}\n"
    )


@contextmanager
def core_pattern(pattern: str) -> Iterator[None]:
    """Let cores be written by *pattern*; what was set before is set again, whatever happens."""
    with open("/tmp/core_pattern.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = CORE_PATTERN.read_text()
        try:
            CORE_PATTERN.write_text(pattern)
            yield
        finally:
            CORE_PATTERN.write_text(before)


def open_up(directory: Path) -> None:
    """Let every user reach *directory*: pytest makes the ones above it for its own user only."""
    for closed in (directory, *directory.parents):
        if closed.stat().st_mode & 0o055 != 0o055:
            closed.chmod(0o755)


class Victim:
    """A process that maps files and dies when it is told."""

    def __init__(
        self,
        program: Path | str,
        *files: str | bytes,
        user: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        self.process = subprocess.Popen(
            [str(program), *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=user,
            cwd=Path(program).parent,  # where a core goes while core_pattern is the kernel's own
            env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def die(self) -> int:
        """Let it crash; return its PID once the kernel has written its core."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == -signal.SIGSEGV
        return self.process.pid


def meminfo() -> dict[str, int]:
    """Return ``/proc/meminfo`` in bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines}


@contextmanager
def segment(name: str, size: int, data: dict[int, bytes]) -> Iterator[str]:
    """Make a segment in ``/dev/shm`` of *size* bytes, holes but for *data* by offset."""
    path = f"/dev/shm/{name}-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(fd, size)
        for offset, piece in data.items():
            os.pwrite(fd, piece, offset)
        os.close(fd)
        yield path
    finally:
        os.unlink(path)


def make_daemon(tmp_path: Path, number: int, config: str) -> Daemon:
    """Make a daemon whose directories every user can reach."""
    directory = tmp_path / f"daemon{number}"
    directory.mkdir()
    open_up(directory)
    return Daemon(directory, config)


CORES = '{id: cores, type: core_files, paths: ["$cores"], match: ["core*"], pipeline: crash}'
HOLD = '{id: hold, collector: command, timeout: 30s, with: {argv: [/bin/cat, "$directory/hold"]}}'
"""A step that waits until a test lets it go; see `held`."""


def config_of(*steps: str, triggers: tuple[str, ...] = (CORES,), more: str = "") -> str:
    """
    Return a configuration for `Daemon`.

    Args:
        steps: Steps, in flow style. ``$directory`` and ``$cores`` are the daemon's.
        triggers: Triggers, likewise.
        more: Further sections, likewise.
    """
    storm, _, _ = CONFIG.partition("triggers:")
    listed = [f"  - {trigger}" for trigger in triggers] + ["pipelines:", "  crash:", "    steps:"]
    text = "\n".join(
        [more, "triggers:" if triggers else "triggers: []", *listed, *(f"      - {step}" for step in steps)]
    )
    text = text.replace("{", "{{").replace("}", "}}")
    return storm + text.replace("$directory", "{directory}").replace("$cores", "{cores}") + "\n"


def in_turn(step: str) -> str:
    """Return *step* with a floor of its own: a light one is then not read first, but in its turn like the others."""
    return step.removesuffix("}") + ", pressure: {floor: 1}}"


@contextmanager
def held(fifo: Path) -> Iterator[None]:
    """Wait until a step reads *fifo*, hold it there for the time of the block, then let it go on."""
    writer = wait_for(lambda: _writer(fifo), f"reader of {fifo}")
    try:
        yield
    finally:
        os.close(writer)


def _writer(fifo: Path) -> int | None:
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno != errno.ENXIO:  # nobody reads it yet
            raise
        return None


def contents(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every regular file below, by its path; no symlink is followed."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def answer_of(daemon: Daemon, request: Request) -> Reply | Status:
    """Ask the daemon and return its last answer."""
    with connected(str(daemon.runtime)) as sock:
        for answer in ask(sock, request):
            if isinstance(answer, Reply | Status):
                return answer
    raise AssertionError("no answer")


def status_of(daemon: Daemon) -> Status:
    """Return what `collector status` would show."""
    status = answer_of(daemon, StatusRequest())
    assert isinstance(status, Status)
    return status


def run_now(daemon: Daemon, *only: str) -> Reply:
    """Do as `collector run --now` does, with all steps or *only* some; return how it ended."""
    reply = answer_of(daemon, RunRequest(only=only))
    assert isinstance(reply, Reply)
    return reply
