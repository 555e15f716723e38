"""A reload promises only what it keeps: some keys take effect after a restart, and an incident under way goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import COLLECTOR, Daemon, held, wait_for

HOLD = {"id": "hold", "collector": "command", "timeout": "30s"}


def edit(daemon: Daemon, **sections: dict[str, Any]) -> None:
    """Change keys of the daemon's configuration file."""
    document = yaml.safe_load(daemon.config.read_text())
    for name, keys in sections.items():
        document[name] = {**document.get(name, {}), **keys}
    daemon.config.write_text(yaml.safe_dump(document))


def crash(daemon: Daemon, number: int) -> None:
    """Put a complete core file in its place."""
    hidden = daemon.directory / "unfinished"
    hidden.write_bytes(b"\x7fELF" + bytes([number]) * 4096)
    hidden.rename(daemon.cores / f"core.{number}")


def status_of(daemon: Daemon) -> dict[str, Any]:
    return json.loads(daemon.run("status", "--json").stdout)  # type: ignore[no-any-return]


def test_reload_names_the_keys_that_need_a_restart(daemon_factory: Callable[..., Daemon]) -> None:
    """In its answer, the log and the status; until then the old archive keeps both incidents and ledger."""
    daemon = daemon_factory()
    other = daemon.directory / "other"
    edit(
        daemon, archive={"path": str(other)}, runtime={"workers": 3, "incident_timeout": "5m"}, recorder={"keep": "90s"}
    )
    result = daemon.run("config", "reload")
    assert result.returncode == 0
    assert (
        result.stdout
        == "the new configuration is in force\nafter a restart: runtime.workers, archive.path, recorder.keep\n"
    )
    assert "after a restart: runtime.workers, archive.path, recorder.keep\n" in daemon.run("status").stdout
    deferred = [event for event in daemon.events() if event["event"] == "config.deferred"]
    assert [(event["key"], event["in_force"], event["after_restart"]) for event in deferred] == [
        ("runtime.workers", 2, 3),
        ("archive.path", str(daemon.archive), str(other)),
        ("recorder.keep", "0s", "90s"),
    ]
    crash(daemon, 1)
    daemon.wait_for_incidents(1)
    assert not other.exists()
    assert daemon.stop() == 0
    daemon.start()
    assert status_of(daemon)["after_restart"] == []
    assert "after a restart" not in daemon.run("status").stdout
    crash(daemon, 2)
    wait_for(lambda: list(other.glob("*Z-??????/manifest.json")), "incident in the new archive")
    assert (other / "ledger.sqlite").exists()


def test_reload_that_is_taken_back_needs_no_restart(daemon_factory: Callable[..., Daemon]) -> None:
    """What counts is the difference from the values that the daemon started with."""
    daemon = daemon_factory()
    before = daemon.config.read_text()
    edit(daemon, runtime={"nice": 3})
    assert "after a restart: runtime.nice" in daemon.run("config", "reload").stdout
    daemon.config.write_text(before)
    assert daemon.run("config", "reload").stdout == "the new configuration is in force\n"


@pytest.fixture
def service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str | None]]:
    """Return the last STATUS that a daemon started now has sent to its service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(tmp_path / "manager"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "manager"))
        received: list[str] = []

        def status() -> str | None:
            try:
                while True:
                    received.extend(sock.recv(4096).decode().splitlines())
            except BlockingIOError:
                return next((line for line in reversed(received) if line.startswith("STATUS=")), None)

        yield status


def test_status_is_right_after_a_reload_during_an_incident(
    daemon_factory: Callable[..., Daemon], service_manager: Callable[[], str | None]
) -> None:
    """`systemctl status` and `collector status` both go on showing the incident, until it ends."""
    daemon = daemon_factory(start=False)
    fifo = daemon.directory / "hold"
    os.mkfifo(fifo)
    step = {**HOLD, "with": {"argv": ["/bin/cat", str(fifo)]}}
    edit(daemon, pipelines={"crash": {"steps": [step]}})
    daemon.start()
    assert service_manager() == "STATUS=watching"
    command = [*COLLECTOR, "run", "--now", "--config", str(daemon.config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        with held(fifo):
            edit(daemon, pressure={"wait": "1s"})
            for result in (daemon.run("config", "reload"), daemon.run("config", "reload")):
                assert result.returncode == 0
            assert service_manager() == "STATUS=collecting: crash"
            (running,) = status_of(daemon)["running"]
            assert running["step"] == "hold"
        assert client.wait(30) == 0
    wait_for(lambda: service_manager() == "STATUS=watching", "the end of the incident in STATUS")
    assert status_of(daemon)["running"] == []
