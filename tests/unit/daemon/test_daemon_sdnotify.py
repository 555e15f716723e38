"""sd_notify: messages to the service manager."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from collector.daemon.sdnotify import ServiceManager


@pytest.fixture
def manager_socket(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(5)
    return sock


def test_manager_receives_each_state(manager_socket: socket.socket) -> None:
    """READY, RELOADING with its time stamp, STOPPING, a ping: sd_notify(3)."""
    manager = ServiceManager({"NOTIFY_SOCKET": manager_socket.getsockname()})
    manager.ready("watching")
    manager.reloading()
    manager.ping()
    manager.stopping()
    heard = [manager_socket.recv(256).decode().splitlines() for _ in range(4)]
    assert heard[0] == ["READY=1", "STATUS=watching"]
    assert heard[1][0] == "RELOADING=1"
    assert heard[1][1].startswith("MONOTONIC_USEC=")
    assert heard[2:] == [["WATCHDOG=1"], ["STOPPING=1"]]


def test_manager_is_told_a_status_once(manager_socket: socket.socket) -> None:
    """The daemon computes it every few seconds, and systemd would wake up for it."""
    manager = ServiceManager({"NOTIFY_SOCKET": manager_socket.getsockname()})
    manager.ready("watching")
    for text in ("watching", "collecting: crash", "collecting: crash", "watching"):
        manager.status(text)
    manager.stopping()
    heard = [manager_socket.recv(256).decode().splitlines()[-1] for _ in range(4)]
    assert heard == ["STATUS=watching", "STATUS=collecting: crash", "STATUS=watching", "STOPPING=1"]


def test_manager_is_pinged_twice_as_often_as_it_asks() -> None:
    """Only with a watchdog, and only if it watches this process."""
    assert ServiceManager({"WATCHDOG_USEC": "30000000"}).watchdog_s == 15.0
    assert ServiceManager({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}).watchdog_s is None
    assert ServiceManager({}).watchdog_s is None


def test_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """Nothing depends on the service manager."""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("watching")
    ServiceManager({}).ready("watching")
