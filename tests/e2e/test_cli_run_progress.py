"""``collector run --now`` on a terminal, by itself and by a daemon, and what a run that found nothing says."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from configuration import MEMORY, config_of, write_config
from copying_fixtures import segment
from harness import COLLECTOR, Daemon

MIB = 1 << 20
WHOLE = re.compile(r"segments: [0-9.]+ [KMG]iB of 24\.0 MiB, [0-9.]+ [KMG]iB/s, [0-9]+ s left")


@pytest.fixture
def segments() -> Iterator[str]:
    """Three segments of 8 MiB, and the step that copies them."""
    with ExitStack() as stack:
        names = [stack.enter_context(segment(8 * MIB)).name for _ in range(3)]
        yield f"{{id: segments, collector: shm, timeout: 5m, with: {{segments: [{', '.join(names)}]}}}}"


def on_terminal(config: Path, *arguments: str, until: str = "", number: int = 0) -> tuple[int, str]:
    """Run `collector run --now` with a terminal as standard error, and send it a signal once it says *until*."""
    leader, follower = pty.openpty()
    command = [*COLLECTOR, "run", "--now", *arguments, "--config", str(config)]
    running = subprocess.Popen(command, stderr=follower, stdout=subprocess.PIPE)
    os.close(follower)
    said = b""
    with suppress(OSError):  # EIO: the terminal's other end is closed
        while piece := os.read(leader, 4096):
            said += piece
            if number and until.encode() in said:
                running.send_signal(number)
                number = 0
    os.close(leader)
    running.communicate(timeout=30)
    return running.returncode, said.decode()


def test_run_shows_bytes_rate_and_time_left_of_all_segments(tmp_path: Path, segments: str) -> None:
    """The total is that of the step, not of the segment that is copied at the time."""
    config = write_config(tmp_path, config_of(segments, triggers=(), copy={"rate": "8MiB/s"}))
    status, said = on_terminal(config)
    assert status == 0, said
    assert WHOLE.search(said), said
    assert set(re.findall(r" of ([0-9.]+ [KMG]iB)", said)) == {"24.0 MiB"}


def test_run_by_the_daemon_shows_the_same(daemon_factory: Callable[..., Daemon], segments: str) -> None:
    """Whoever does the work, the terminal is the same."""
    daemon = daemon_factory(config_of(segments, triggers=(), copy={"rate": "8MiB/s"}))
    status, said = on_terminal(daemon.config)
    assert status == 0, said
    assert WHOLE.search(said), said
    assert [event["incident"] for event in daemon.events() if event["event"] == "incident.archived"]


def test_run_in_a_pipe_shows_no_progress(tmp_path: Path, segments: str) -> None:
    """A log file would be full of it."""
    config = write_config(tmp_path, config_of(segments, triggers=(), copy={"rate": "8MiB/s"}))
    done = subprocess.run([*COLLECTOR, "run", "--now", "--config", str(config)], capture_output=True, check=True)
    assert b"\r" not in done.stderr
    assert b" of 24.0 MiB" not in done.stderr


def test_run_says_what_ctrl_c_does(tmp_path: Path, segments: str) -> None:
    """Once, however often it is pressed; what there is, is sealed."""
    config = write_config(tmp_path, config_of(segments, triggers=(), copy={"rate": "1MiB/s"}))
    status, said = on_terminal(config, until=" of 24.0 MiB", number=signal.SIGINT)
    assert (status, said.count("what was collected is sealed")) == (3, 1), said
    assert "the collector was stopped" in said


def test_run_that_named_nobody_is_no_success(tmp_path: Path) -> None:
    """Steps about a process say how to name one, and if nothing else was asked for, the run says so."""
    steps = [f"{{id: {name}, collector: {name}}}" for name in ("process", "cgroup", "network", "journal", "shm")]
    config = write_config(tmp_path, config_of(MEMORY, *steps, triggers=()))
    command = [*COLLECTOR, "run", "--now", "--json", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, check=True)
    ends = {step["id"]: (step["status"], step.get("reason", "")) for step in json.loads(done.stdout)["steps"]}
    assert ends.pop("memory") == ("ok", "")
    ends.pop("recorder", None)
    assert {end[0] for end in ends.values()} == {"not_applicable"}
    assert all("--pid PID" in reason for _, reason in ends.values()), ends
    nothing = subprocess.run([*command, "--only", "process"], capture_output=True, check=False)
    assert (nothing.returncode, json.loads(nothing.stdout)["exit_code"]) == (3, 3)
