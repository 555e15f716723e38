"""The service manager's store of descriptors: taken at the start, kept for the triggers that are configured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from collector.daemon.descriptor_store import StoredDescriptors, inherited

TAKES = """
import os
from collector.daemon.sdnotify import ServiceManager
passed = {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "held/cores:old"}}
manager = ServiceManager({sockets} | passed)
for fd in (3, 4):
    try:
        print(os.get_inheritable(fd))
    except OSError:
        print("closed")
store = manager.descriptors
if store is not None:
    store.keep(["held"])
    print(store.of("held").stored("cores"), store.of("held").stored("cores"), store.of("other").stored("cores"))
    try:
        os.fstat(4)
    except OSError:
        print("closed")
"""


class Sent:
    """Records what would go to the manager."""

    def __init__(self) -> None:
        self.messages: list[tuple[tuple[str, ...], Sequence[int]]] = []

    def __call__(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        self.messages.append((lines, fds))
        return True


def start_with_two(sockets: str) -> list[str]:
    """Start a process with two descriptors from its manager; return the lines that it prints."""
    script = f"import os; os.dup2(1, 3); os.dup2(1, 4);{TAKES.format(sockets=sockets)}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return done.stdout.decode().splitlines()


def test_stored_descriptors_are_taken_and_unknown_ones_closed() -> None:
    """No child inherits them; a trigger gets its own, once."""
    said = start_with_two('{"NOTIFY_SOCKET": "/nowhere", "FDSTORE": "4"}')
    assert said == ["False", "False", "3 None None", "closed"]


@pytest.mark.parametrize("sockets", ['{"NOTIFY_SOCKET": "/nowhere"}', '{"FDSTORE": "4"}'])
def test_descriptors_are_closed_when_nothing_keeps_them(sockets: str) -> None:
    """Without a store, the daemon puts core_pattern back at its end, so that nothing may outlive it."""
    assert start_with_two(sockets) == ["closed", "closed"]


def test_environment_says_nothing_of_descriptors_afterwards() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "HOME": "/"}
    assert inherited(environ) == {}  # of another process
    assert environ == {"HOME": "/"}
    assert inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}) == {}


def test_descriptor_replaces_the_one_of_its_name() -> None:
    """systemd keeps as many of a name as it is given."""
    sent = Sent()
    part = StoredDescriptors(sent, {}).of("held")
    assert part.store("cores", 7)
    assert part.store("cores", 8)
    name = "FDNAME=held/cores"
    assert sent.messages == [(("FDSTORE=1", name), (7,)), (("FDSTOREREMOVE=1", name), ()), (("FDSTORE=1", name), (8,))]


def test_descriptors_of_a_trigger_that_is_no_longer_configured_are_removed() -> None:
    sent = Sent()
    store = StoredDescriptors(sent, {})
    store.of("held").store("cores", 7)
    store.keep(["held", "other"])
    assert len(sent.messages) == 1
    store.keep(["other"])
    assert sent.messages[1:] == [(("FDSTOREREMOVE=1", "FDNAME=held/cores"), ())]


def test_part_of_a_trigger_is_equal_to_itself() -> None:
    """A reload keeps a trigger open whose context is equal."""
    store = StoredDescriptors(Sent(), {})
    assert store.of("held") == store.of("held")
    assert store.of("held") != store.of("other")
