"""What a daemon finishes for the one before it that was killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, CORES, EXITS, HOLD, MEMORY, config_of
from harness import Daemon, Victim, held, run_now, status_of, wait_for
from machine import PROC_CONNECTOR, core_pattern

pytestmark = pytest.mark.root


def queued(daemon: Daemon, pid: int) -> list[str]:
    """Return the kinds of the queued markers of *pid*, and of those that joined a queued one."""
    rows = daemon.ledger("kind, fate, json_extract(marker, '$.process.pid')")
    return [kind for kind, fate, known in rows if known == pid and fate in {"queued", "joined"}]


def test_restart_ledger_exists_from_the_first_start(daemon_factory: Callable[..., Daemon]) -> None:
    """The archive directory is created before the first incident, so that queued markers outlive the daemon."""
    daemon = daemon_factory(config_of(MEMORY))
    assert status_of(daemon).ledger_problem is None
    assert (daemon.archive / "ledger.sqlite").exists()


@pytest.mark.needs(PROC_CONNECTOR)
def test_restart_keeps_the_core_of_a_queued_crash(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Its exit was queued and its core joined it; the next daemon archives both in one incident."""
    daemon = daemon_factory(config_of(MEMORY, CORE, HOLD, triggers=(CORES, EXITS)), start=False)
    fifo = daemon.directory / "hold"
    os.mkfifo(fifo)
    daemon.start()
    (daemon.cores / "core.first").write_bytes(b"\x7fELF" + bytes(4096))
    with held(fifo), core_pattern(f"{daemon.cores}/core.%e.%P"):
        victim = Victim(crasher)
        time.sleep(0.6)  # until its exec event has been handled
        pid = victim.die()
        expected = ["core_file", "exit", "exit"]
        wait_for(lambda: sorted(queued(daemon, pid)) == expected, "its dump, its exit and its core in the queue")
        daemon.stop(signal.SIGKILL)
    fifo.unlink()  # the step no longer blocks
    daemon.start()

    def archived() -> list[dict[str, Any]]:
        return [one for one in daemon.incidents() if (one["markers"][0].get("process") or {}).get("pid") == pid]

    (manifest,) = wait_for(archived, "incident of the crash that waited")
    assert sorted(marker["kind"] for marker in manifest["markers"]) == expected
    (step,) = [step for step in manifest["steps"] if step["id"] == "core"]
    assert step["status"] == "ok"
    assert len(step["artifacts"]) >= 1


def test_restart_adds_missing_digests(daemon_factory: Callable[..., Daemon]) -> None:
    """The daemon was killed between sealing and reading back the copies."""
    daemon = daemon_factory(config_of(MEMORY))
    assert run_now(daemon).exit_code in (0, 3)
    daemon.stop(signal.SIGKILL)
    (path,) = daemon.archive.glob("*Z-??????/manifest.json")
    before = json.loads(path.read_text())
    after = json.loads(path.read_text())
    after["steps"][0]["artifacts"][0]["digest"] = None
    path.write_text(json.dumps(after))
    daemon.start()
    wait_for(lambda: daemon.incidents() == [before], "digest")
