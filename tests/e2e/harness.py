"""A real daemon, real crashes and real cores for the end-to-end tests."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from configuration import write_config

from collector.daemon.messages import Reply, Request, RunRequest, Status, StatusRequest
from collector.daemon.requests import ask, connected, metrics_of

HERE = Path(__file__).parent
NOBODY = 65534
COLLECTOR = [sys.executable, "-m", "collector.cli.main"]


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Poll until *condition* is true; return what it returned."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"after {timeout_s} s still no {what}")


def metric_in(text: str, series: str) -> float:
    """Return one metric of a text for Prometheus."""
    (found,) = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"crash_collector_{series} ")]
    return float(found)


class Daemon:
    """A ``collector daemon`` with its own directories."""

    def __init__(self, directory: Path, config: str) -> None:
        self.directory = directory
        self.archive = directory / "archive"
        self.cores = directory / "cores"
        self.runtime = directory / "run"
        self.log = directory / "log"
        self.cores.mkdir(mode=0o1777, exist_ok=True)
        self.cores.chmod(0o1777)
        self.config = write_config(directory, config)
        self.command = COLLECTOR
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *prefix: str) -> None:
        """Start it and wait until its triggers are watching."""
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
        """Send a signal and wait until the daemon ends; return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(40)

    def kill(self) -> None:
        """Kill it, its workers and their commands, also if they are blocked."""
        if self.process is not None and self.process.poll() is None:
            for process in psutil.Process(self.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.stop(signal.SIGKILL)

    def run(self, *arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a ``collector`` command with this daemon's configuration."""
        command = [*COLLECTOR, *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)

    def metric(self, series: str) -> float:
        """Return one metric; *series* is without the prefix, and has its labels."""
        return metric_in(metrics_of(str(self.runtime)), series)

    def events(self) -> list[dict[str, Any]]:
        """Return the events in its log."""
        return [json.loads(line) for line in self.log.read_bytes().splitlines() if line.startswith(b"{")]

    def incidents(self) -> list[dict[str, Any]]:
        """Return the manifests of all sealed incidents, oldest first."""
        return [json.loads(path.read_text()) for path in sorted(self.archive.glob("*Z-??????/manifest.json"))]

    def ledger(self, columns: str) -> list[tuple[Any, ...]]:
        """Return some columns, as SQL expressions, of every marker's row in the ledger, oldest first."""
        with closing(sqlite3.connect(f"file:{self.archive}/ledger.sqlite?mode=ro", uri=True)) as db:
            return db.execute(f"SELECT {columns} FROM markers ORDER BY id").fetchall()

    def put_core(self, name: str) -> None:
        """Create a core file as handlers do: complete, by a rename."""
        hidden = self.directory / "unfinished"
        hidden.write_bytes(b"\x7fELF" + name.encode() * 1024)
        hidden.rename(self.cores / name)

    def wait_for_incidents(self, count: int, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """Wait until *count* incidents are sealed; return their manifests."""
        return wait_for(lambda: (found := self.incidents())[count - 1 :] and found, f"{count} incidents", timeout_s)


def open_up(directory: Path) -> None:
    """Make *directory* accessible to every user: pytest creates its parents for the current user only."""
    for closed in (directory, *directory.parents):
        if closed.stat().st_mode & 0o055 != 0o055:
            closed.chmod(0o755)


def as_nobody(scratch: Path, *, gid: int | None = None) -> list[str]:
    """
    Return what to put before a command to run it as nobody, as a member of the group *gid* only.

    The interpreter and this checkout may be in directories that only root can enter, such as /root. In a mount
    namespace for the command, such directories are covered by an overlay that everybody can enter.
    """
    needed = {Path(sys.executable), Path(sys.executable).resolve(), Path(__file__).resolve()}
    closed = {parent for path in needed for parent in path.parents if parent.stat().st_mode & 0o5 != 0o5}
    groups = "--clear-groups" if gid is None else f"--groups={gid}"
    script = ["set -e"]
    for number, directory in enumerate(sorted(closed)):
        upper, work = scratch / f"upper{number}", scratch / f"work{number}"
        script.append(f"mkdir -p -m 755 {upper} {work}")
        script.append(f"mount -t overlay -o lowerdir={directory},upperdir={upper},workdir={work} none {directory}")
    script.append(f'exec setpriv --reuid={NOBODY} {groups} "$@"')
    return ["unshare", "--mount", "sh", "-c", "\n".join(script), "sh"]


class Victim:
    """A process that maps files, and crashes on request."""

    def __init__(
        self,
        program: Path | str,
        *files: str | bytes,
        user: int | None = None,
        environment: dict[str, str] | None = None,
        core_limit: int = resource.RLIM_INFINITY,
    ) -> None:
        self.process = subprocess.Popen(
            [str(program), *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=user,
            cwd=Path(program).parent,  # a relative core_pattern writes its core here
            env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (core_limit, resource.RLIM_INFINITY)),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def die(self) -> int:
        """Crash it; return its PID once the kernel has written its core."""
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
    """Create a segment of *size* bytes in ``/dev/shm``: *data* by offset, holes elsewhere."""
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
    """Create a daemon whose directories are accessible to every user."""
    directory = tmp_path / f"daemon{number}"
    directory.mkdir()
    open_up(directory)
    return Daemon(directory, config)


@contextmanager
def held(fifo: Path) -> Iterator[None]:
    """Wait until a step reads *fifo*, and block it there during the block."""
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


def steps_of(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in manifest["steps"]}


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of every regular file below *directory* by relative path; symlinks are not followed."""
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
    """Return the daemon's status, as `collector status` does."""
    status = answer_of(daemon, StatusRequest())
    assert isinstance(status, Status)
    return status


def run_now(daemon: Daemon, *only: str) -> Reply:
    """Run an incident, as `collector run --now` does, with all steps or *only* some; return the result."""
    reply = answer_of(daemon, RunRequest(only=only))
    assert isinstance(reply, Reply)
    return reply
