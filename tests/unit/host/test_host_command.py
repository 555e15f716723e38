from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from collector.host.command import Command
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


@pytest.mark.parametrize("start", ["", "setsid "])
@pytest.mark.parametrize("output", ["", " >/dev/null 2>&1"])
def test_command_ends_with_what_it_left_behind(tmp_path: Path, start: str, output: str) -> None:
    """Also with what left its process group, and with what holds no output; the result says what happened."""
    script = f"{start}sh -c 'sleep 600 & echo $! >{tmp_path}/pid; wait'{output} & sleep 0.1; echo said; exit 3"
    command, printed, cut = Command(["/bin/sh", "-c", script]), b"", ""
    try:
        for piece in command.output(limit=1 << 20, until_s=time.monotonic() + 0.5):
            printed += piece
    except Truncated as exc:
        cut = exc.reason
    command.close(time.monotonic() + (0 if cut else 10), reap_s=5.0)
    assert (printed, command.exit_status) == (b"said\n", 3)
    assert cut == (
        "" if output else "it ended, but processes that it left behind held its output until they were killed"
    )
    assert command.killed.startswith("it ended and left processes behind, which were killed: ")
    assert "sleep (PID " in command.killed
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_command_that_never_ends_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """Its group is not all of it."""
    script = f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 600' & sleep 600"
    _, cut, status = run("/bin/sh", "-c", script, timeout_s=0.5)
    assert (cut, status) == ("it was killed: it had not ended in time", -9)
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_command_whose_children_end_by_themselves_is_not_said_to_be_killed() -> None:
    """A pipeline in the background that is through is nobody's fault."""
    command = Command(["/bin/sh", "-c", "(sleep 0.05; echo late) & (exit 5) & exit 0"])
    assert b"".join(command.output(limit=1 << 20, until_s=time.monotonic() + 10)) == b"late\n"
    time.sleep(0.1)
    command.close(time.monotonic() + 10, reap_s=5.0)
    assert (command.killed, command.exit_status) == ("", 0)


def test_command_leaves_other_children_alone() -> None:
    """They are not the command's."""
    with subprocess.Popen(["/bin/sleep", "600"]) as other:
        run("/bin/sh", "-c", "setsid sleep 600 & exit 0", timeout_s=0.3)
        assert is_running(other.pid)
        other.kill()


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
