from __future__ import annotations

import os
import time
from typing import Any

import psutil
import pytest
from collecting import Collected, collect, context

from collector.collectors.command import RunCommand
from collector.model.marker import Marker, MarkerKind, ProcessRef


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


def crash(**facts: Any) -> Marker:
    """The crash of a process that nobody has any more."""
    known = {"process": ProcessRef(pid=4000077, start_time_ticks=77), "comm": "engine", "exe": "/opt/engine"}
    known |= {"unit": "engine.service", "signal": 11} | facts
    return Marker(kind=MarkerKind.EXIT, trigger="exits", at_s=1.0, **known)


def echoed(*argv: str, marker: Marker) -> Collected:
    return collect(RunCommand(argv=("/bin/echo", *argv)), context(marker))


def test_command_is_told_of_the_crash() -> None:
    """Each placeholder is one argument, whatever is in it; other braces are passed as they are."""
    names = ("{pid}", "{comm}", "{exe}", "{unit}", "{signal}", "{incident}", "{}", "{ pid }", "%{comm}x")
    collected = echoed(*names, marker=crash(comm="a b;$(id)"))
    said = "4000077 a b;$(id) /opt/engine engine.service 11 20261128T001933.000000Z-9f21c4 {} { pid } %{comm}x\n"
    assert collected.text("output.txt") == said
    assert collected.document("result.json")["argv"][2] == "a b;$(id)"


@pytest.mark.parametrize(
    ("facts", "argument", "why"),
    [
        ({"unit": None}, "{unit}", "{unit} of the crash is not known"),
        ({"process": None}, "{pid}", "{pid} of the crash is not known"),
        ({"doubtful": True}, "{comm}", "{comm} is not certain: only a claim says whose crash it is"),
        ({"attributed": False}, "{exe}", "{exe} is not certain: only a claim says whose crash it is"),
        (
            {"process": ProcessRef(pid=os.getpid(), start_time_ticks=77)},
            "{pid}",
            "may be another process by now: it started at tick",
        ),
        (
            {"process": ProcessRef(pid=os.getpid())},
            "{pid}",
            "may be another process by now: it started at tick",
        ),
    ],
)
def test_command_without_a_certain_value_is_not_run(facts: dict[str, Any], argument: str, why: str) -> None:
    """Never with an empty argument, nor with the number of somebody else: such a step does not apply."""
    collected = echoed(argument, marker=crash(**facts))
    assert why in collected.not_applicable
    assert list(collected.artifacts) == []


def test_command_that_asks_for_a_crash_does_not_apply_to_a_run_by_hand() -> None:
    """Unless it asks for the incident only."""
    assert "--pid" in collect(RunCommand(argv=("/bin/echo", "{pid}"))).not_applicable
    assert collect(RunCommand(argv=("/bin/echo", "{incident}"))).text("output.txt").startswith("2026")


@pytest.mark.parametrize("name", ["-rf", "--config=/tmp/x", "a\nb", "\x1b[2J", "\x7f", "x" * 5000])
def test_command_refuses_a_name_that_it_could_misread(name: str) -> None:
    """The crashed process chooses its name: it must not become an option, nor a second line."""
    collected = echoed("{comm}", marker=crash(comm=name))
    assert str(collected.error).startswith("the command was not run: {comm} ")
    assert str(collected.error).isprintable()
    assert list(collected.artifacts) == []


def test_command_gets_names_that_are_not_text_as_they_are() -> None:
    """A name is bytes: the command sees those of the process."""
    collected = echoed("{comm}", marker=crash(comm=os.fsdecode(b"\xffengine")))
    assert collected["output.txt"] == b"\xffengine\n"
