"""``collector copy``, as a user types it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals
from typing import Any

import pytest
from copying_fixtures import MIB, Destination, same, scattered, segment

COLLECTOR = [sys.executable, "-m", "collector.cli.main"]

# Whoever runs the tests may ignore signals, as nohup does, and that is inherited.
HEEDING = ["env", "--default-signal=HUP,INT,TERM"]


def collector(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COLLECTOR, "copy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_cli_copy_reports_every_figure_as_json(target: Destination) -> None:
    """One document with all that describes the copy."""
    with segment(20 * MIB + 5, pieces=scattered(20 * MIB, 4, 10_000)) as source:
        done = collector("--json", "--digest", "sha256", "--rate", "1GiB/s", "--writers", "1", source, target.path)
        copy = target.path / source.name
        assert same(source, copy)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert done.stderr == ""
    assert report["digest"] == f"sha256:{hashlib.sha256(copy.read_bytes()).hexdigest()}"
    assert {
        "method", "direct", "size_bytes", "data_bytes", "extents", "seconds", "cpu_seconds", "chunk_bytes", "writers",
        "pauses", "slow_downs", "changed", "truncated", "source",
    } <= report.keys()  # fmt: skip
    assert report["source"]["uid"] == os.geteuid()
    assert report["writers"] == 1


def test_cli_copy_says_what_it_did(target: Destination) -> None:
    """For people: size, rate, method and its reason; no progress in a pipe."""
    with segment(3 * MIB) as source:
        done = collector(source, target.path / "copy")
    assert done.returncode == 0
    assert "3.0 MiB" in done.stdout
    assert "splice" in done.stdout
    assert done.stderr == ""


def test_cli_copy_shows_progress_on_a_terminal(target: Destination) -> None:
    """Rate and time left, while it runs."""
    ours, theirs = pty.openpty()
    with segment(8 * MIB) as source:
        done = subprocess.run(
            [*COLLECTOR, "copy", "--rate", "20MiB/s", source, target.path / "copy"],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            check=False,
        )
    os.close(theirs)
    shown = os.read(ours, 1 << 20)
    os.close(ours)
    assert done.returncode == 0
    assert b"copy" in shown
    assert b"/s" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("/nonexistent", "{target}/x"), 64, "No such file"),
        (("--rate", "fast", "{source}", "{target}/x"), 64, "adaptive"),
        (("--chunk", "1M", "{source}", "{target}/x"), 64, "MiB"),
        (("--method", "magic", "{source}", "{target}/x"), 64, "magic"),
        (("{source}", "{target}/taken"), 73, "exists"),
        (("{source}", "{target}/no/such/x"), 73, "No such file"),
        (("{source}", "/dev/shm/collector-test-copy"), 73, "tmpfs"),
    ],
)
def test_cli_copy_refuses_with_a_reason(
    target: Destination, arguments: tuple[str, ...], status: int, word: str
) -> None:
    """An exit status for scripts, a sentence for people, never a traceback."""
    (target.path / "taken").touch()
    with segment(4096) as source:
        done = collector(*(text.format(source=source, target=target.path) for text in arguments))
    assert done.returncode == status
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@contextlib.contextmanager
def started(
    source: Path, target: Destination, *options: str, prefix: tuple[str, ...] = (), **more: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a copy to ``copy``; enter the block once there is a ``.part``."""
    command = [*HEEDING, *prefix, *COLLECTOR, "copy", *options, str(source), str(target.path / "copy")]
    with subprocess.Popen(command, **{"stderr": subprocess.PIPE, "text": True, **more}) as running:
        try:
            while not target.names():
                assert running.poll() is None or target.names(), "it may have ended since"
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP])
def test_cli_copy_leaves_nothing_behind_when_a_signal_ends_it(target: Destination, number: Signals) -> None:
    """An interrupted copy leaves no file, and the status is what a shell expects."""
    with segment(64 * MIB) as source, started(source, target, "--rate", "10MiB/s") as running:
        running.send_signal(number)
        _, said = running.communicate(timeout=10)
    assert running.returncode == 128 + number
    assert said == f"collector: ended by {number.name}; the unfinished copy was removed\n"
    assert target.names() == []


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP])
def test_cli_copy_ends_the_same_when_signals_keep_coming(target: Destination, number: Signals) -> None:
    """An impatient user gets the same status, the same line, and no ``.part``."""
    with segment(64 * MIB) as source, started(source, target, "--rate", "10MiB/s") as running:
        while running.poll() is None:
            running.send_signal(number)
            time.sleep(0.001)
        _, said = running.communicate(timeout=10)
    assert running.returncode == 128 + number
    assert said == f"collector: ended by {number.name}; the unfinished copy was removed\n"
    assert target.names() == []


def test_cli_copy_tells_a_script_that_a_signal_ended_it(target: Destination) -> None:
    """There is one JSON document then, too."""
    with (
        segment(64 * MIB) as source,
        started(source, target, "--json", "--rate", "10MiB/s", stdout=subprocess.PIPE) as running,
    ):
        running.terminate()
        told, _ = running.communicate(timeout=10)
    assert json.loads(told)["exit_code"] == 143


def test_cli_copy_is_whole_or_nothing_whenever_a_signal_comes(target: Destination) -> None:
    """Up to the last moment the status says which; there is never a ``.part``."""
    rng = random.Random(1)
    with segment(32 * MIB) as source:
        for _ in range(12):
            with started(source, target, "--rate", "max", stdout=subprocess.DEVNULL) as running:
                time.sleep(rng.uniform(0, 0.06))
                running.terminate()
                running.wait(10)
            names = target.names()
            assert (running.returncode, names) in ((0, ["copy"]), (143, []))
            if names:
                assert same(source, target.path / "copy")
                os.unlink("copy", dir_fd=target.fd)


def test_cli_copy_goes_on_under_nohup(target: Destination) -> None:
    """A signal that is ignored when the copy starts stays ignored."""
    with segment(8 * MIB) as source:
        with started(source, target, "--rate", "10MiB/s", prefix=("nohup",), stdout=subprocess.PIPE) as running:
            running.send_signal(SIGHUP)
            running.communicate(timeout=10)
        assert running.returncode == 0
        assert same(source, target.path / "copy")


def test_cli_copy_leaves_nothing_behind_when_its_terminal_hangs_up(target: Destination) -> None:
    """A lost connection means SIGHUP and a progress bar that can no longer be drawn."""
    ours, theirs = pty.openpty()
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": {**os.environ, "TERM": "xterm"}}
    with (
        segment(64 * MIB) as source,
        started(source, target, "--rate", "10MiB/s", prefix=("setsid", "--ctty"), **terminal) as running,
    ):
        os.close(theirs)
        os.close(ours)
        assert running.wait(10) == 129
    assert target.names() == []


def test_cli_copy_says_what_to_do_with_the_part_of_a_killed_copy(target: Destination) -> None:
    """SIGKILL leaves a ``.part`` and nothing else; the next copy neither takes nor replaces it."""
    with segment(64 * MIB) as source:
        with started(source, target, "--rate", "10MiB/s") as running:
            running.kill()
        done = collector(source, target.path / "copy")
    assert target.names() == ["copy.part"]
    assert done.returncode == 73
    assert "copy.part" in done.stderr
    assert "hint: if no other copy is writing it, remove it: a killed one left it behind" in done.stderr


@contextlib.contextmanager
def odd(kind: str, scratch: Path) -> Iterator[Path]:
    """Make something other than a regular file."""
    path = scratch / kind
    with contextlib.ExitStack() as stack:
        match kind:
            case "directory":
                path.mkdir()
            case "FIFO":
                os.mkfifo(path)
            case "symlink":
                path.symlink_to("/etc/hostname")
            case "socket":
                stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
            case "character device":
                path = Path("/dev/null")
        yield path


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("directory", "name one file in it"),
        ("FIFO", "use cat"),
        ("symlink", "readlink -f"),
        ("socket", "ss -xp"),
        ("character device", "use cat"),
    ],
)
def test_cli_copy_refuses_what_is_not_a_regular_file(scratch: Path, target: Destination, kind: str, hint: str) -> None:
    """A usage error with a hint."""
    with odd(kind, scratch) as source:
        done = collector(source, target.path / "copy")
    assert done.returncode == 64
    assert f"is a {kind}, not a regular file" in done.stderr
    assert hint in done.stderr
    assert target.names() == []


def test_cli_copy_does_not_even_open_a_fifo(scratch: Path, target: Destination) -> None:
    """A writer that waits for a reader goes on waiting."""
    with odd("FIFO", scratch) as source, subprocess.Popen(["sh", "-c", 'echo > "$0"', source]) as writer:
        collector(source, target.path / "copy")
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.2)
        writer.kill()


@pytest.mark.parametrize(
    "source", ["/proc/version", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"]
)
def test_cli_copy_refuses_files_that_the_kernel_generates(target: Destination, source: str) -> None:
    """Their size is 0 or a page: a copy would be empty or truncated without saying so."""
    with open(source) as file:
        for path in (source, f"/proc/{os.getpid()}/fd/{file.fileno()}"):
            done = collector(path, target.path / "copy")
            assert done.returncode == 64
            assert "its size is not known in advance" in done.stderr
            assert "use cat" in done.stderr
    assert target.names() == []


@pytest.mark.parametrize("directory", ["/dev/shm", "/var/tmp"])
@pytest.mark.parametrize("size", [0, 5000])
def test_cli_copy_takes_an_open_file_through_the_process_that_has_it(
    target: Destination, directory: str, size: int
) -> None:
    """A descriptor below /proc leads to a file on tmpfs or a disk; the copy of an empty file is empty."""
    with segment(size, directory=directory) as source, source.open() as file:
        for name, path in (("named", source), ("held", f"/proc/{os.getpid()}/fd/{file.fileno()}")):
            assert collector(path, target.path / name).returncode == 0
            assert same(source, target.path / name)


def test_cli_copy_says_so_when_it_may_not_read(target: Destination) -> None:
    """Status 77 tells a script to run as somebody else."""
    with segment(4096) as source:
        source.chmod(0)
        done = powerless(source, target.path / "copy")
    assert done.returncode == 77
    assert f"{source}: Permission denied" in done.stderr


def test_cli_copy_says_so_when_it_may_not_write(target: Destination) -> None:
    """A directory that belongs to somebody else is status 77, too."""
    target.path.chmod(0o500)
    with segment(4096) as source:
        done = powerless(source, target.path / "copy")
    target.path.chmod(0o700)
    assert done.returncode == 77
    assert "hint: " in done.stderr


def powerless(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it without the capability to ignore file modes."""
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    command = [*drop, *COLLECTOR, "copy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.root
def test_cli_copy_says_what_to_do_when_the_disk_is_full(small_disk: Path) -> None:
    """The hint fits the command line: it does not mention a step."""
    with segment(80 * MIB) as source:
        done = collector(source, small_disk / "copy")
    assert done.returncode == 73
    assert "hint: free space there, or copy less" in done.stderr
    assert not (small_disk / "copy.part").exists()
