"""Sources that cannot be watched for a while: said as long as it lasts, and watched again without a restart."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from configuration import CORES, MEMORY, NOTIFY, config_of
from harness import Daemon, status_of, wait_for

pytestmark = pytest.mark.root
TOLD = "{id: told, type: notify, socket: $directory/sockets/told.sock, pipeline: crash}"
INSTANCES = "/proc/sys/user/max_inotify_instances"


def changes(daemon: Daemon, trigger: str) -> list[str]:
    """Return the logged changes of a trigger's state, oldest first."""
    names = {"trigger.degraded", "trigger.restored"}
    return [event["event"] for event in daemon.events() if event["event"] in names and event["trigger"] == trigger]


def says_degraded(daemon: Daemon, reason: str) -> bool:
    """Return whether `status` and `doctor` both say ``degraded``, and why."""
    said = [daemon.run(command).stdout.splitlines() for command in ("status", "doctor")]
    return all(any("degraded: " in line and reason in line for line in lines) for lines in said)


def send(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"COMM=engine", str(path))


def test_directories_are_watched_once_an_inotify_instance_is_free(daemon_factory: Callable[..., Daemon]) -> None:
    """None at the start, one later; a core from in between is collected, too. The limit is its namespace's own."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(CORES,)), start=False)
    daemon.start("unshare", "--user", "--map-root-user", "sh", "-c", f'echo 0 >{INSTANCES}; exec "$0" "$@"')
    assert says_degraded(daemon, "Too many open files")
    daemon.put_core("core.engine.999999")
    subprocess.run(["nsenter", "-U", "-t", str(daemon.pid), "sh", "-c", f"echo 9 >{INSTANCES}"], check=True)
    daemon.wait_for_incidents(1)
    assert status_of(daemon).triggers == {"cores": "watching"}
    assert changes(daemon, "cores") == ["trigger.degraded", "trigger.restored"]


def test_notify_listens_once_its_directory_exists(daemon_factory: Callable[..., Daemon]) -> None:
    """At the start, and after the directory was removed and made anew."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(TOLD,)))
    path = daemon.directory / "sockets" / "told.sock"
    for _ in range(2):
        assert says_degraded(daemon, "No such file or directory")
        path.parent.mkdir(mode=0o755)
        wait_for(path.exists, "socket")
        wait_for(lambda: status_of(daemon).triggers == {"told": "watching"}, "watching")
        send(path)
        path.unlink()
        path.parent.rmdir()
    wait_for(lambda: status_of(daemon).triggers != {"told": "watching"}, "degraded")
    wait_for(lambda: len(daemon.ledger("id")) == 2, "two markers")
    assert changes(daemon, "told") == ["trigger.degraded", "trigger.restored"] * 2 + ["trigger.degraded"]


@pytest.mark.parametrize("made_anew", [False, True])
def test_runtime_directory_comes_back(daemon_factory: Callable[..., Daemon], made_anew: bool) -> None:
    """With it `status`, the socket of `notify`, and the lock against a second daemon."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(NOTIFY,)))
    shutil.rmtree(daemon.runtime)
    if made_anew:
        daemon.runtime.mkdir(mode=0o700)
    wait_for(lambda: daemon.run("status").returncode == 0, "answer")
    wait_for(lambda: status_of(daemon).triggers == {"told": "watching"}, "watching")
    assert daemon.run("notify", "COMM=engine").returncode == 0
    daemon.wait_for_incidents(1)
    assert "another daemon has locked" in daemon.run("daemon").stderr
    assert daemon.stop() == 0
