"""The daemon itself: its cost, its forks, how it stops and recovers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from configuration import config_of
from harness import Daemon, Victim, segment, wait_for
from machine import core_pattern

MIB = 1 << 20
pytestmark = pytest.mark.root
SLOW = config_of(copy={"rate": "16MiB/s"})


def workers(daemon: Daemon) -> list[psutil.Process]:
    return psutil.Process(daemon.pid).children()


def crash(daemon: Daemon, crasher: Path, *segments: str) -> None:
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        Victim(crasher, *segments).die()


def test_daemon_forks_nothing_between_marker_and_archive(
    daemon_factory: Callable[..., Daemon], crasher: Path, tmp_path: Path
) -> None:
    """A fork at crash time may need memory that is not available: workers exist already and only start threads."""
    daemon = daemon_factory()
    trace = tmp_path / "trace"
    pids = [str(daemon.pid), *(str(worker.pid) for worker in workers(daemon))]
    calls = "trace=fork,vfork,clone,clone3,execve,execveat"
    attach = [argument for pid in pids for argument in ("-p", pid)]
    strace = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", calls, "-o", str(trace), *attach], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: all(_traced(pid) for pid in pids), "strace attached")
        with segment("traced", 8 * MIB, {0: os.urandom(8 * MIB)}) as path:
            crash(daemon, crasher, path)
            (manifest,) = daemon.wait_for_incidents(1)
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait()
    assert manifest["state"] == "complete", manifest
    calls_made = re.findall(r"^\d+ +((?:v?fork|clone3?|execve(?:at)?)\(.*)", trace.read_text(), re.MULTILINE)
    assert [call for call in calls_made if "CLONE_THREAD" not in call] == []
    assert calls_made, "the copy engine starts threads: strace would have seen them"


def _traced(pid: str) -> bool:
    return "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text()


def test_run_is_executed_by_the_daemon(daemon_factory: Callable[..., Daemon]) -> None:
    """`collector run --now` uses the daemon's workers; the manifest has the reason that was given."""
    daemon = daemon_factory()
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(daemon.runtime)}
    done = subprocess.run(
        [*daemon.command, "run", "--now", "--reason", "because", "--json", "--only", "memory"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Path(result["path"]).parent == daemon.archive
    (manifest,) = daemon.incidents()
    assert manifest["markers"][0]["reason"] == "because"
    assert any(event["event"] == "incident.archived" for event in daemon.events())


def test_status_answers_during_an_incident(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """The loop never waits for a copy."""
    daemon = daemon_factory(SLOW)
    with segment("slow", 64 * MIB, {n * MIB: os.urandom(MIB) for n in range(64)}) as path:
        crash(daemon, crasher, path)
        wait_for(lambda: list(daemon.archive.glob("*.partial/segments/**/*.part")), "copy under way")
        status = json.loads(daemon.run("status", "--json").stdout)
    assert [running["step"] for running in status["running"]] == ["segments"]
    assert status["workers_idle"] == 1
    assert status["triggers"] == {"cores": "watching"}


def test_second_daemon_is_refused(daemon_factory: Callable[..., Daemon]) -> None:
    """Two daemons would seal each other's incidents."""
    daemon = daemon_factory()
    second = daemon.run("daemon")
    assert second.returncode == 77
    assert "another daemon" in second.stderr


def test_daemon_refuses_an_unsafe_runtime_directory(daemon_factory: Callable[..., Daemon], tmp_path: Path) -> None:
    """A symlink, or a directory that others can write to, could be an attack on socket and lock."""
    daemon = daemon_factory(start=False)
    daemon.runtime.symlink_to(tmp_path)
    assert daemon.run("daemon").returncode == 77
    daemon.runtime.unlink()
    daemon.runtime.mkdir(mode=0o777)
    daemon.runtime.chmod(0o777)
    refused = daemon.run("daemon")
    assert refused.returncode == 77
    assert "0700" in refused.stderr
