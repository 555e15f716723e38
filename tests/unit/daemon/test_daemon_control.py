"""The daemon's end of a connection: it never waits for the client."""

from __future__ import annotations

import socket

import msgspec
import pytest

from collector.daemon.control import Client
from collector.daemon.loop import Loop
from collector.daemon.messages import MESSAGE_LIMIT, Answer, Reply
from collector.model.incident import IncidentState
from collector.runner.events import IncidentArchived, StepProgressed

PROGRESS = StepProgressed(incident="one", step="segments", size_bytes=1)
ARCHIVED = IncidentArchived(
    incident="one", path="/one", state=IncidentState.COMPLETE, artifacts=1, size_bytes=1, duration_s=1.0
)


@pytest.fixture
def loop() -> Loop:
    return Loop()


def connection(loop: Loop) -> tuple[Client, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(0.05)
    return Client(ours, 0, loop), theirs


def read_all(loop: Loop, sock: socket.socket) -> list[Answer]:
    """Run the loop and return what arrives until the other end closes."""
    found: list[Answer] = []
    while True:
        try:
            data = sock.recv(MESSAGE_LIMIT)
        except TimeoutError:
            loop.call_later(0.3, loop.stop)
            loop.run()
            continue
        if not data:
            return found
        found.append(msgspec.json.decode(data, type=Answer))


def test_client_that_does_not_read_still_gets_the_last_messages(loop: Loop) -> None:
    """Progress updates are dropped; where the incident is and how it ended wait until there is room."""
    client, theirs = connection(loop)
    with theirs:
        for _ in range(5000):
            client.send(PROGRESS)
        client.send(ARCHIVED)
        client.end(Reply(incident="one"))
        found = read_all(loop, theirs)
    assert found[-2:] == [ARCHIVED, Reply(incident="one")]
    assert 0 < found.count(PROGRESS) < 5000


def test_client_that_is_gone_keeps_nothing_waiting(loop: Loop) -> None:
    """Its messages are dropped, and its descriptor is closed."""
    client, theirs = connection(loop)
    theirs.close()
    client.send(ARCHIVED)
    client.end(Reply())
    assert client.sock.fileno() == -1


def test_client_that_never_reads_is_closed(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pager left open overnight does not hold a descriptor of the daemon indefinitely."""
    monkeypatch.setattr("collector.daemon.control.LINGER_S", 0.0)
    client, theirs = connection(loop)
    with theirs:
        for _ in range(5000):
            client.send(ARCHIVED)
        client.end(Reply())
        loop.call_later(0.6, loop.stop)
        loop.run()
    assert client.sock.fileno() == -1
