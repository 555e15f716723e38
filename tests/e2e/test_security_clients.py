"""Whoever writes nonsense to a socket of the daemon, or leaves at once, costs only himself."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from configuration import MEMORY, NOTIFY, config_of
from harness import Daemon, status_of, wait_for

from collector.daemon.messages import MESSAGE_LIMIT, SOCKET_NAME
from collector.triggers import notify

CONFIG = config_of(MEMORY, triggers=(NOTIFY,))
NONSENSE = {
    "nothing": b"",
    "invalid_utf8": b'{"type":"\xff"}',
    "invalid_utf8_in_a_text": b'{"type":"run","reason":"\xff"}',
    "half_a_character": b'{"type":"run","reason":"\\ud800"}',
    "deep_nesting": b'{"type":"status","x":' + b"[" * 60_000,
    "deep_objects": b'{"x":' * 12_000,
    "another_type": b"[1]",
    "a_type_that_is_none": b'{"type":7}',
    "numbers_too_long": b'{"type":"run","only":["none"],"processes":[{"pid":' + b"9" * 60_000 + b"}]}",
    "longer_than_a_message": b'{"type":"run","reason":"' + b"a" * (MESSAGE_LIMIT + 1) + b'"}',
    "zeros": b"\0" * 1000,
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("clients")
    daemon = Daemon(directory, CONFIG)
    daemon.start()
    yield daemon
    daemon.kill()


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(daemon.runtime / SOCKET_NAME))
    sock.settimeout(10)
    return sock


@pytest.mark.parametrize("message", NONSENSE.values(), ids=NONSENSE)
def test_daemon_refuses_a_message_that_is_no_request(daemon: Daemon, message: bytes) -> None:
    """With the status for misuse; the next client is served."""
    with connect(daemon) as sock:
        sock.send(message)
        assert b'"exit_code":64' in sock.recv(MESSAGE_LIMIT)
    assert status_of(daemon).pid == daemon.pid


@pytest.mark.parametrize("message", [b"", b'{"type":"status"}', b'{"type":"run"}', b'{"type":"reload"}'])
def test_daemon_serves_others_when_a_client_leaves_at_once(daemon: Daemon, message: bytes) -> None:
    """Before or after its request, with a reset instead of an end."""
    for _ in range(30):
        with connect(daemon) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if message:
                sock.send(message)
    wait_for(lambda: status_of(daemon).pid == daemon.pid, "status")


def test_daemon_keeps_no_descriptor_that_a_client_passes(daemon: Daemon, tmp_path: Path) -> None:
    """Neither with a request nor with a notification: the kernel closes what nobody takes."""
    passed = tmp_path / "passed"
    with passed.open("w") as file, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
        fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()] * 100))]
        for _ in range(5):
            with connect(daemon) as sock:
                sock.sendmsg([b'{"type":"status"}'], fds)
                assert sock.recv(MESSAGE_LIMIT)
            sender.sendmsg([b"SIGNAL=SEGV\n"], fds, 0, str(daemon.runtime / notify.SOCKET_NAME))
    wait_for(lambda: sum(status_of(daemon).fates.values()) >= 5, "the notifications")
    assert str(passed) not in open_files(daemon.pid)


def open_files(pid: int) -> set[str]:
    """What the descriptors of a process lead to, apart from those that it closes meanwhile."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


@pytest.mark.parametrize(
    "datagram",
    [b"", b"{" * 8000, b'{"a":' + b"[" * 8000, b'{"a":' * 1600, b'{"\\ud800":"\\ud800"}', b"\xff=\xff\n", b"9" * 8192],
)
def test_daemon_survives_a_notification_that_says_nothing(daemon: Daemon, datagram: bytes) -> None:
    """It is recorded like any other."""
    before = sum(status_of(daemon).fates.values())
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
        sender.sendto(datagram, str(daemon.runtime / notify.SOCKET_NAME))
    wait_for(lambda: sum(status_of(daemon).fates.values()) > before, "the notification")


@pytest.mark.root
def test_daemon_shows_a_name_that_is_no_utf8(daemon_factory: Callable[..., Daemon]) -> None:
    """The state of a trigger may hold the name of a directory that a user has made."""
    trigger = "{id: ended, type: exit_files, paths: [$directory/*/exits], pipeline: crash}"
    daemon = daemon_factory(config_of(MEMORY, triggers=(trigger,)), start=False)
    odd = os.fsencode(daemon.directory) + b"/\xff\x1b"
    os.mkdir(odd)
    os.symlink(b"exits", odd + b"/exits")  # a loop
    daemon.start()
    assert "ended" in status_of(daemon).triggers
    assert daemon.run("status").returncode == 0
