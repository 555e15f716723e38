from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from collector.collectors.command import Command
from collector.model.artifact import Truncated


def run(*argv: str, limit: int = 1 << 20, timeout_s: float = 20.0) -> tuple[bytes, str, int | None]:
    """Run a command; return its output, why it was cut, its exit status."""
    until_s = time.monotonic() + timeout_s
    command, output, cut = Command(argv), b"", ""
    try:
        for piece in command.output(limit=limit, until_s=until_s):
            output += piece
    except Truncated as exc:
        cut = exc.reason
    command.close(until_s if not cut else 0.0, reap_s=5.0)
    return output, cut, command.exit_status


def test_command_returns_both_outputs_and_its_exit_status() -> None:
    """Standard error is part of the evidence."""
    output, cut, status = run("/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    assert (sorted(output.split()), cut, status) == ([b"err", b"out"], "", 7)


def test_command_sees_no_shell_no_input_and_a_bare_environment() -> None:
    """Arguments are passed unchanged, and the daemon's environment is not."""
    assert run("/bin/echo", "$HOME; true | x")[0] == b"$HOME; true | x\n"
    assert run("/bin/cat") == (b"", "", 0)
    assert sorted(line.split(b"=")[0] for line in run("/usr/bin/env")[0].split()) == [b"HOME", b"LC_ALL", b"PATH"]


def test_command_inherits_no_descriptor_of_ours(tmp_path: Path) -> None:
    """Not the archive's, not the sockets', not its own pipe twice."""
    with (tmp_path / "held").open("w") as held:
        theirs = {int(name) for name in run("/bin/ls", "/proc/self/fd")[0].split()}
        inherited = {int(name) for name in os.listdir("/proc/self/fd") if is_inheritable(int(name))}
        assert held.fileno() not in inherited
        # Whoever started pytest may have left some open; one more is ls reading the directory.
        assert len(theirs - inherited - {0, 1, 2}) <= 1


def is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def test_command_that_prints_endlessly_is_killed_at_the_limit() -> None:
    """Exactly *limit* bytes are kept."""
    output, cut, status = run("/usr/bin/yes", limit=100_001)
    assert len(output) == 100_001
    assert "more than 100001 bytes" in cut
    assert status is not None
    assert status < 0


def test_command_that_never_ends_is_killed_in_time() -> None:
    """What it printed before is kept."""
    output, cut, status = run("/bin/sh", "-c", "echo before; sleep 600", timeout_s=0.3)
    assert (output, cut, status) == (b"before\n", "it was killed: it had not ended in time", -9)


def test_command_is_killed_with_its_children(tmp_path: Path) -> None:
    """A child that holds the output open is in the same process group."""
    pid_file = tmp_path / "pid"
    run("/bin/sh", "-c", f"sleep 600 & echo $! > {pid_file}; exit 0", timeout_s=0.3)
    pid = int(pid_file.read_text())
    for _ in range(100):
        if not is_running(pid):
            break
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def test_command_that_does_not_exist_raises_and_leaks_nothing() -> None:
    """No descriptor stays open."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        Command(["/does/not/exist"])
    assert os.listdir("/proc/self/fd") == before
