"""Attacks on what opens an incident: the collector's own crashes, and voices that pretend to be the kernel's."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from harness import CORES, HOLD, Daemon, Victim, config_of, core_pattern, held, wait_for

pytestmark = pytest.mark.root
EXITS = "{id: exits, type: process_exits, pipeline: crash}"
KERNEL = "{id: kernel, type: kernel_log, pipeline: crash}"
MEMORY = "{id: memory, collector: proc_files}"


def fates(daemon: Daemon) -> list[tuple[str, int, str]]:
    """Return trigger, PID and fate of every marker."""
    query = "SELECT trigger, json_extract(marker, '$.process.pid'), fate FROM markers ORDER BY id"
    with sqlite3.connect(f"file:{daemon.archive}/ledger.sqlite?mode=ro", uri=True) as db:
        return db.execute(query).fetchall()


def workers(daemon: Daemon) -> list[int]:
    return [worker.pid for worker in psutil.Process(daemon.pid).children()]


def test_crash_of_a_worker_opens_no_incident(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Killed asleep and at work, again and again: its markers are recorded and suppressed, and it leaves no core."""
    daemon = daemon_factory(config_of(HOLD, MEMORY, triggers=(CORES, EXITS, KERNEL)))
    os.mkfifo(daemon.directory / "hold")
    own = set(workers(daemon))
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        pid = Victim(crasher).die()
        with held(daemon.directory / "hold"):
            for worker in workers(daemon):
                os.kill(worker, signal.SIGSEGV)
            wait_for(lambda: [row for row in fates(daemon) if row[1] in own], "marker of a worker")
        daemon.wait_for_incidents(1)
        asleep = wait_for(lambda: [worker for worker in workers(daemon) if worker not in own], "new workers")
        own |= set(asleep)
        os.kill(asleep[0], signal.SIGSEGV)
        wait_for(lambda: [row for row in fates(daemon) if row[1] == asleep[0]], "marker of the one that slept")
    assert {fate for _, known, fate in fates(daemon) if known in own} == {"suppressed"}
    about = [marker["process"]["pid"] for manifest in daemon.incidents() for marker in manifest["markers"]]
    assert pid in about
    assert not own & set(about)
    assert [path.name for path in daemon.cores.iterdir()] == [f"core.crasher.{pid}"]


def test_words_of_anybody_are_not_the_kernels(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """`logger -p kern.err`, by nobody and by root: no marker; a real fault after it is one."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(KERNEL,)))
    line = "engine[999999]: segfault at 0 ip 0 sp 0 error 4"
    for user in ([], ["setpriv", "--reuid=65534", "--clear-groups"]):
        subprocess.run([*user, "logger", "-p", "kern.err", line], check=False)
        subprocess.run([*user, "sh", "-c", f"echo '<3>{line}' > /dev/kmsg"], check=False, stderr=subprocess.DEVNULL)
    with core_pattern("|/bin/true"):
        pid = Victim(crasher).die()
    wait_for(lambda: [row for row in fates(daemon) if row[1] == pid], "marker of the real one")
    assert not [row for row in fates(daemon) if row[1] == 999_999]


def test_command_that_crashes_does_not_feed_on_itself(daemon_factory: Callable[..., Daemon]) -> None:
    """A step whose command dies of SIGSEGV in every incident: its death opens none."""
    suicide = '{id: suicide, collector: command, with: {argv: [/bin/sh, -c, "kill -SEGV $$"]}}'
    daemon = daemon_factory(config_of(suicide, MEMORY, triggers=(CORES, EXITS)))
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        (daemon.cores / "core.engine.999999").write_bytes(b"x")
        daemon.wait_for_incidents(1)
        status = json.loads(daemon.run("status", "--json").stdout)
        assert status["fates"].get("suppressed", 0) >= 1
    opened = [marker for manifest in daemon.incidents() for marker in manifest["markers"] if marker["comm"] == "sh"]
    assert opened == []
