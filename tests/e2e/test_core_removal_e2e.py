"""Directories of cores are kept bounded: what is archived goes, and only that."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from configuration import CORE, CORES, MEMORY, config_of
from harness import NOBODY, Daemon, status_of, wait_for

MIB = 1 << 20


def trigger(options: str) -> str:
    return CORES.replace("pipeline", f"{options}, pipeline")


def put(daemon: Daemon, name: str, size: int = 4096, uid: int = -1) -> None:
    """Create a core of random content, complete, by a rename."""
    hidden = daemon.directory / "unfinished"
    hidden.write_bytes(b"\x7fELF" + os.urandom(size - 4))
    os.chown(hidden, uid, uid)
    hidden.rename(daemon.cores / name)


def names(daemon: Daemon) -> set[str]:
    return {path.name for path in daemon.cores.iterdir()}


def test_core_is_removed_once_it_is_archived_and_not_before(daemon_factory: Callable[..., Daemon]) -> None:
    """Switched on by a reload, it is removed; the archive has it whole. What is not archived stays."""
    storm = {"per_executable": {"count": 2}, "per_uid": {"count": 2}}
    daemon = daemon_factory(config_of(MEMORY, CORE, triggers=(CORES,), storm=storm))
    put(daemon, "core.engine.4000077")
    (manifest,) = daemon.wait_for_incidents(1)
    wait_for(lambda: any(one["event"] == "incident.sealed" for one in daemon.events()), "its digests")
    assert names(daemon) == {"core.engine.4000077"}
    before = (daemon.cores / "core.engine.4000077").read_bytes()
    text = daemon.config.read_text(encoding="utf-8")
    daemon.config.write_text(text.replace("- id: cores\n", "- id: cores\n  remove: archived\n"), encoding="utf-8")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: names(daemon) == set(), "the removal")
    assert (daemon.archive / manifest["id"] / "core" / "core").read_bytes() == before
    for number in (1, 2):
        put(daemon, f"core.engine.{4000077 + number}")
        daemon.wait_for_incidents(min(2, 1 + number))
    wait_for(lambda: names(daemon) == {"core.engine.4000079"}, "the removal of the second, and the third is held")
    wait_for(lambda: {fate for (fate,) in daemon.ledger("fate")} == {"collected", "held"}, "the fate of the third")
    assert names(daemon) == {"core.engine.4000079"}
    counts = wait_for(lambda: (found := removals(daemon))[1:] and found, "two lines")
    assert counts == [1, 1]
    assert daemon.metric('cores_removed_total{trigger="cores"}') == 2


def removals(daemon: Daemon) -> list[int]:
    return [one["count"] for one in daemon.events() if one["event"] == "cores.removed"]


@pytest.mark.root
def test_cores_beyond_a_size_go_the_oldest_of_who_holds_most(daemon_factory: Callable[..., Daemon]) -> None:
    """Nobody pays for another: what others hold stays, and what is not archived stays and is said."""
    storm = {"per_executable": {"count": 50}, "per_uid": {"count": 4}}
    daemon = daemon_factory(config_of(MEMORY, CORE, triggers=(trigger("size: 5MiB"),), storm=storm))
    put(daemon, "core.root.4000077", MIB, 0)
    daemon.wait_for_incidents(1)
    for number in range(4):
        put(daemon, f"core.user.{4000078 + number}", MIB, NOBODY)
        daemon.wait_for_incidents(2 + number)
    put(daemon, "core.user.4000090", MIB, NOBODY)
    wait_for(lambda: daemon.ledger("1 ")[5:], "the last")
    put(daemon, "core.other.4000091", MIB, 1000)
    daemon.wait_for_incidents(6)
    rest = {"core.root.4000077", "core.user.4000080", "core.user.4000081", "core.user.4000090", "core.other.4000091"}
    wait_for(lambda: names(daemon) == rest, "five of seven")
    for number in range(4):
        put(daemon, f"core.user.{4000092 + number}", MIB, NOBODY)
    put(daemon, "core.other.4000099", MIB, 1000)
    rest = names(daemon) - {"core.user.4000080", "core.user.4000081"}
    wait_for(lambda: "not archived" in status_of(daemon).triggers["cores"], "the state")
    assert rest <= names(daemon)
    assert "core.root.4000077" in names(daemon)
