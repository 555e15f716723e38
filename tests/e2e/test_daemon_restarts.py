"""What the next daemon makes of what a killed one owed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import CORES, HOLD, Daemon, Victim, config_of, core_pattern, held, run_now, status_of, wait_for

pytestmark = pytest.mark.root
EXITS = "{id: exits, type: process_exits, rules: [{comm: [crasher]}], pipeline: crash}"
MEMORY = "{id: memory, collector: proc_files}"


def queued(daemon: Daemon, pid: int) -> list[str]:
    """Return the kinds of markers of *pid* that wait or joined one that does."""
    with sqlite3.connect(f"file:{daemon.archive}/ledger.sqlite?mode=ro", uri=True) as db:
        rows = db.execute("SELECT kind, marker FROM markers WHERE fate IN ('queued', 'joined') ORDER BY id")
        return [kind for kind, marker in rows if (json.loads(marker).get("process") or {}).get("pid") == pid]


def test_a_first_start_finds_room_for_its_ledger(daemon_factory: Callable[..., Daemon]) -> None:
    """The archive's directory is made before there is an incident, and what is queued outlives the daemon."""
    daemon = daemon_factory(config_of(MEMORY))
    assert status_of(daemon).ledger_problem is None
    assert (daemon.archive / "ledger.sqlite").exists()


def test_a_restart_keeps_the_core_of_a_crash_that_waits_for_its_turn(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """Its exit was queued, its core joined that; both are in the incident that the next daemon archives."""
    daemon = daemon_factory(
        config_of(MEMORY, "{id: core, collector: core}", HOLD, triggers=(CORES, EXITS)), start=False
    )
    fifo = daemon.directory / "hold"
    os.mkfifo(fifo)
    daemon.start()
    (daemon.cores / "core.first").write_bytes(b"\x7fELF" + bytes(4096))
    with held(fifo), core_pattern(f"{daemon.cores}/core.%e.%P"):
        victim = Victim(crasher)
        time.sleep(0.6)  # long enough for its exec event to be looked at
        pid = victim.die()
        wait_for(lambda: queued(daemon, pid) == ["exit", "core_file"], "exit and its core in the queue")
        daemon.stop(signal.SIGKILL)
    fifo.unlink()  # nothing is held any more
    daemon.start()

    def archived() -> list[dict[str, Any]]:
        return [one for one in daemon.incidents() if (one["markers"][0].get("process") or {}).get("pid") == pid]

    (manifest,) = wait_for(archived, "incident of the crash that waited")
    assert [marker["kind"] for marker in manifest["markers"]] == ["exit", "core_file"]
    (step,) = [step for step in manifest["steps"] if step["id"] == "core"]
    assert step["status"] == "ok"
    assert len(step["artifacts"]) >= 1


def test_a_restart_adds_the_digests_that_the_last_run_did_not_come_to(daemon_factory: Callable[..., Daemon]) -> None:
    """Sealed, and then killed before its copies were read back."""
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
