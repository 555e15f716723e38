"""The command line beside a daemon: what is handed over, and what happens when either side ends first."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

from configuration import HOLD, MEMORY, config_of, in_turn
from harness import Daemon, held, wait_for


def run_in_background(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    command = [*daemon.command, "run", "--now", *arguments, "--config", str(daemon.config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_run_is_handed_to_the_daemon_only_if_that_would_do_the_same(daemon_factory: Callable[..., Daemon]) -> None:
    """With the daemon's own configuration and archive it does the work; with others this process does, and says why."""
    daemon = daemon_factory(config_of(MEMORY, triggers=()))
    assert daemon.run("run", "--now").returncode == 0
    assert [event["incident"] for event in daemon.events() if event["event"] == "incident.archived"]
    elsewhere = daemon.run("run", "--now", "--archive", str(daemon.directory / "other"))
    assert elsewhere.returncode == 0
    assert f"the daemon is not used: its archive is {daemon.archive}\n" in elsewhere.stderr
    daemon.config.write_text(daemon.config.read_text().replace("floor: 256MiB", "floor: 257MiB"))
    other = daemon.run("run", "--now")
    assert other.returncode == 0
    assert f"the daemon is not used: its configuration, {daemon.config}, is different\n" in other.stderr
    assert len(daemon.incidents()) == 2
    assert sum(event["event"] == "incident.archived" for event in daemon.events()) == 1


def test_run_is_not_done_twice_when_the_daemon_dies(daemon_factory: Callable[..., Daemon]) -> None:
    """If it ends after it took the request, exit status 69: its next start goes on with it."""
    daemon = daemon_factory(config_of(HOLD, triggers=()), start=False)
    os.mkfifo(daemon.directory / "hold")
    daemon.start()
    client = run_in_background(daemon)
    with held(daemon.directory / "hold"):
        daemon.stop(signal.SIGKILL)
        _, said = client.communicate(timeout=20)
    assert client.returncode == 69
    assert "the daemon ended; its next start goes on with what it had begun: `collector list`" in said
    assert daemon.incidents() == []


def test_ctrl_c_only_ends_the_waiting(daemon_factory: Callable[..., Daemon]) -> None:
    """The daemon continues, and the message says so."""
    daemon = daemon_factory(config_of(HOLD, triggers=()), start=False)
    os.mkfifo(daemon.directory / "hold")
    daemon.start()
    client = run_in_background(daemon)
    with held(daemon.directory / "hold"):
        client.send_signal(signal.SIGINT)
        _, said = client.communicate(timeout=20)
    assert client.returncode == 130
    assert "the daemon continues the run: `collector status`" in said
    assert daemon.wait_for_incidents(1)


def test_status_shows_each_mistake_on_its_own_line(daemon_factory: Callable[..., Daemon]) -> None:
    """A refused configuration may have many."""
    daemon = daemon_factory(config_of(MEMORY, triggers=()))
    daemon.config.write_text(daemon.config.read_text() + "bogus: 1\nbogus2: 1\n")
    assert daemon.run("config", "reload").returncode == 78
    told = daemon.run("status").stdout
    assert r"\x0a" not in told
    assert sum("bogus" in line for line in told.splitlines()) == 2


def test_daemon_logs_the_beginning_of_each_step_when_it_is_verbose(daemon_factory: Callable[..., Daemon]) -> None:
    """For a terminal; by default the journal does not get these lines."""
    daemon = daemon_factory(config_of(in_turn(MEMORY), triggers=()), start=False)
    command = [*daemon.command, "daemon", "--verbose", "--config", str(daemon.config)]
    with daemon.log.open("wb") as log:
        daemon.process = subprocess.Popen(command, stderr=log)
    wait_for(lambda: b"daemon.started" in daemon.log.read_bytes(), "daemon.started")
    assert daemon.run("run", "--now").returncode == 0
    assert "step.started" in [event["event"] for event in daemon.events()]
