from __future__ import annotations

import os
import time

import psutil
import pytest
from collecting import collect, context

from collector.collectors.command import RunCommand


def test_command_keeps_output_and_result() -> None:
    """What it printed, how it ended, how long it took."""
    collected = collect(RunCommand(argv=("/bin/sh", "-c", "echo out; echo err >&2; exit 3")))
    assert sorted(collected.text("output.txt").split()) == ["err", "out"]
    result = collected.document("result.json")
    assert (result["exit_status"], result["killed"]) == (3, "")
    assert collected.error is None


def test_command_that_prints_a_gigabyte_is_cut_off() -> None:
    """Only the allowed bytes are kept, and it is killed."""
    argv = ("/usr/bin/head", "-c", "1000000000", "/dev/zero")
    collected = collect(RunCommand(argv=argv, max_output=1 << 20))  # type: ignore[arg-type]
    assert len(collected["output.txt"]) == 1 << 20
    assert "more than 1048576 bytes" in str(collected.artifacts["output.txt"].cut)
    assert collected.document("result.json")["exit_status"] < 0


def test_command_that_never_ends_is_killed_before_the_worker_is() -> None:
    """The result is written within the step's own deadline."""
    started_s = time.monotonic()
    collected = collect(RunCommand(argv=("/bin/sh", "-c", "echo before; sleep 600")), context(timeout_s=2.0))
    assert time.monotonic() - started_s < 60  # far below 600: it was killed
    assert collected.text("output.txt") == "before\n"
    assert collected.document("result.json")["exit_status"] == -9


def test_command_of_a_short_step_has_half_its_time() -> None:
    """Enough to print something, and to write the result."""
    collected = collect(RunCommand(argv=("/bin/sh", "-c", "echo before; sleep 600")), context(timeout_s=1.0))
    assert collected.text("output.txt") == "before\n"
    assert collected.document("result.json")["killed"] == "it was killed: it had not ended in time"


def test_command_that_closes_its_output_is_waited_for() -> None:
    """It may still be working; its exit status is part of the result."""
    collected = collect(RunCommand(argv=("/bin/sh", "-c", "exec >&- 2>&-; sleep 0.2; exit 5")))
    assert collected.document("result.json")["exit_status"] == 5


def test_command_that_is_not_installed_is_a_failed_step() -> None:
    """With the reason, and nothing else."""
    collected = collect(RunCommand(argv=("/does/not/exist",)))
    assert str(collected.error) == "/does/not/exist: No such file or directory"
    assert list(collected.artifacts) == []


@pytest.mark.parametrize("argv", [(), ("ls",), ("./ls",), ("",)])
def test_command_needs_an_absolute_path(argv: tuple[str, ...]) -> None:
    """No PATH is searched."""
    with pytest.raises(ValueError, match="absolute path"):
        RunCommand(argv=argv)


def test_command_gets_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's own secrets must not leak."""
    monkeypatch.setenv("UPLOAD_TOKEN", "hunter2")
    assert b"hunter2" not in collect(RunCommand(argv=("/usr/bin/env",))).everything()


def test_command_leaves_no_child_and_no_descriptor() -> None:
    """Even if nobody reads its output."""
    before, children = os.listdir("/proc/self/fd"), set(psutil.Process().children())
    steps = RunCommand(argv=("/bin/sleep", "600")).collect(context(timeout_s=2.0))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert os.listdir("/proc/self/fd") == before
    assert set(psutil.Process().children()) == children
