"""Every source of markers, with the real thing behind it, from the crash to the archived incident."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configuration import CRASHER, EXITS, MEMORY, NOTIFY, UNBOUNDED, config_of
from harness import COLLECTOR, Daemon, Victim, wait_for
from machine import PROC_CONNECTOR, core_pattern, every_fault_logged

pytestmark = pytest.mark.root
NOBODY = 65534

TRIGGERS = {
    "cores": "{id: cores, type: core_files, paths: [$cores], pipeline: crash}",
    "exits": EXITS.replace("rules: [", f"rules: [{{comm: [{CRASHER}], signals: [KILL]}}, "),
    "kernel": "{id: kernel, type: kernel_log, events: [segfault], pipeline: crash}",
    "dropped": "{id: dropped, type: exit_files, paths: [$directory/drop], pipeline: crash}",
    "told": NOTIFY,
    "low": "{id: low, type: memory_pressure, window: 1s, stall: 1s, available: 1TiB, pipeline: crash}",
}


def only(*names: str, **sections: dict[str, object]) -> str:
    """Return a configuration with some of the triggers, and one step."""
    return config_of(MEMORY, triggers=tuple(TRIGGERS[name] for name in names), **sections)


def kinds(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted({(marker["trigger"], marker["kind"]) for marker in manifest["markers"]})


def of(manifests: list[dict[str, Any]], pid: int) -> list[dict[str, Any]]:
    """Incidents of one process: others crash on this machine, too."""
    return [
        manifest
        for manifest in manifests
        if any(
            pid in ((marker.get("process") or {}).get("pid"), marker.get("thread")) for marker in manifest["markers"]
        )
    ]


def crash(daemon: Daemon, crasher: Path, user: int | None = None) -> int:
    victim = Victim(crasher, user=user)
    time.sleep(0.6)  # long enough for its exec event to be looked at
    return victim.die()


def fates(daemon: Daemon) -> list[tuple[str, str, int | None]]:
    with sqlite3.connect(f"file:{daemon.archive}/ledger.sqlite?mode=ro", uri=True) as db:
        return db.execute("SELECT trigger, fate, uid FROM markers ORDER BY id").fetchall()


@pytest.mark.needs(PROC_CONNECTOR)
def test_one_crash_is_one_incident_with_all_its_markers(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """A core, an exit event and a line of the kernel's log: one incident, three markers."""
    daemon = daemon_factory(only("cores", "exits", "kernel"))
    with core_pattern(f"{daemon.cores}/core.%e.%P"), every_fault_logged():
        pid = crash(daemon, crasher)
        wait_for(lambda: of(daemon.incidents(), pid), "incident")
    wait_for(lambda: len([row for row in fates(daemon) if row[1] in {"collected", "joined"}]) >= 3, "three fates")
    (manifest,) = of(daemon.incidents(), pid)
    assert kinds(manifest) == [("cores", "core_file"), ("exits", "exit"), ("kernel", "kernel_log")]


@pytest.mark.parametrize("trigger", ["cores", pytest.param("exits", marks=pytest.mark.needs(PROC_CONNECTOR)), "kernel"])
def test_a_crash_is_noticed_by_each_source_alone(
    daemon_factory: Callable[..., Daemon], crasher: Path, trigger: str
) -> None:
    """None of them needs the others."""
    daemon = daemon_factory(only(trigger))
    with core_pattern(f"{daemon.cores}/core.%e.%P"), every_fault_logged():
        pid = crash(daemon, crasher)
        wait_for(lambda: of(daemon.incidents(), pid), "incident")
    (manifest,) = of(daemon.incidents(), pid)
    assert {name for name, _ in kinds(manifest)} == {trigger}


@pytest.mark.needs(PROC_CONNECTOR)
def test_a_kill_is_noticed_where_a_rule_asks_for_it(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """A process that leaves no core: the OOM killer's way to die."""
    daemon = daemon_factory(only("exits"))
    victim = Victim(crasher)
    time.sleep(0.6)
    victim.process.kill()
    victim.process.wait()
    (manifest,) = wait_for(lambda: of(daemon.incidents(), victim.process.pid), "incident")
    assert manifest["markers"][0]["signal"] == signal.SIGKILL


def test_an_exit_file_is_archived_and_removed(daemon_factory: Callable[..., Daemon]) -> None:
    """What the supervisor of processes said is in the incident, and no longer in the directory."""
    daemon = daemon_factory(only("dropped"))
    drop = daemon.directory / "drop"
    drop.mkdir()
    (drop / ".x").write_text("PID=999999\nCOMM=engine\nEXIT_STATUS=3\nSITE=north\n")
    (drop / ".x").rename(drop / "x")
    (manifest,) = daemon.wait_for_incidents(1)
    assert manifest["markers"][0]["attributes"]["SITE"] == "north"
    wait_for(lambda: not list(drop.iterdir()), "empty directory")


def test_a_notification_is_archived(daemon_factory: Callable[..., Daemon]) -> None:
    """By the command, through the configuration that the daemon has."""
    daemon = daemon_factory(only("told"))
    assert daemon.run("notify", "PID=999999", "COMM=engine", "SIGNAL=SEGV").returncode == 0
    (manifest,) = daemon.wait_for_incidents(1)
    assert (manifest["markers"][0]["signal"], manifest["markers"][0]["uid"]) == (signal.SIGSEGV, None)


def test_a_low_memory_is_archived_once(daemon_factory: Callable[..., Daemon], tmp_path: Path) -> None:
    """One light incident, then the cool-down; the mark is above what this machine has."""
    if _may_set_any_window():
        pytest.skip("PSI takes this window here, and MemAvailable is looked at only where it does not")
    daemon = daemon_factory(only("low"))
    (manifest,) = daemon.wait_for_incidents(1)
    assert kinds(manifest) == [("low", "pressure")]
    time.sleep(2.5)
    assert len(daemon.incidents()) == 1


def _may_set_any_window() -> bool:
    """Whether this process has CAP_SYS_RESOURCE (24)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


SPOOFER = r"""
import os, socket, sys
cores, drop, sock = sys.argv[1:]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
open(f"{cores}/core.crasher.1", "w").write("x")
open(f"{drop}/spoof", "w").write("PID=1\nUID=0\nCOMM=systemd\n")
for path, action in (("/dev/kmsg", lambda f: f.write("<3>x[1]: segfault at 0")),):
    try:
        with open(path, "w") as file: action(file)
    except PermissionError:
        print("kmsg refused")
try:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"PID=1\nUID=0\n", sock)
except PermissionError:
    print("socket refused")
"""


def test_nobody_is_held_to_account_for_what_nobody_plants(daemon_factory: Callable[..., Daemon]) -> None:
    """A core, an exit file, a line and a datagram of nobody's: refused, or nobody's own, under nobody's budget."""
    daemon = daemon_factory(only("cores", "dropped", "told"))
    drop = daemon.directory / "drop"
    drop.mkdir()
    drop.chmod(0o1777)
    time.sleep(2.5)  # the directory is found
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        arguments = [str(daemon.cores), str(drop), str(daemon.runtime / "notify.sock")]
        done = subprocess.run([sys.executable, "-c", SPOOFER, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.split("\n") == ["kmsg refused", "socket refused", ""]
        manifests = daemon.wait_for_incidents(2)
    markers = [marker for manifest in manifests for marker in manifest["markers"]]
    assert {(marker["trigger"], marker["uid"]) for marker in markers} == {("cores", NOBODY), ("dropped", NOBODY)}
    dropped = next(marker for marker in markers if marker["trigger"] == "dropped")
    assert dropped["process"] is None


def test_a_line_that_somebody_writes_opens_no_incident(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Not even root speaks with the kernel's voice. The real line after it proves that the trigger reads."""
    daemon = daemon_factory(only("kernel"))
    with open("/dev/kmsg", "w") as kmsg:
        kmsg.write("<3>engine[999999]: segfault at 0 ip 0 sp 0 error 4")
    with core_pattern("core"), every_fault_logged():
        pid = crash(daemon, crasher)
    wait_for(lambda: of(daemon.incidents(), pid), "incident")
    assert of(daemon.incidents(), 999_999) == []


def test_a_flood_of_nobodys_cores_leaves_the_engines_budget_alone(daemon_factory: Callable[..., Daemon]) -> None:
    """300 files named like the engine's: a row each, two incidents, and the engine's core gets its own."""
    daemon = daemon_factory(only("cores", storm={**UNBOUNDED, "per_uid": {"count": 2}}))
    for number in range(300):
        path = daemon.cores / f".{number}"
        path.write_bytes(b"x")
        os.chown(path, NOBODY, NOBODY)
        path.rename(daemon.cores / f"core.engine.{number}")
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        wait_for(lambda: len(fates(daemon)) == 300, "300 rows")
        (daemon.cores / "core.engine.999999").write_bytes(b"x")
        manifests = daemon.wait_for_incidents(3)
    uids = [manifest["markers"][0]["uid"] for manifest in manifests]
    assert sorted(uids) == [0, NOBODY, NOBODY]
    wait_for(lambda: {fate for _, fate, _ in fates(daemon)} == {"collected", "suppressed", "held"}, "final fates")
    status = json.loads(daemon.run("status", "--json").stdout)
    assert sum(status["fates"].values()) == 301


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_core_is_lost_or_taken_twice_over_restarts(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """200 crashes while the daemon is killed and started ten times: each core in exactly one incident."""
    daemon = daemon_factory(only("cores", archive={"keep": {"count": 1000}}, storm=UNBOUNDED))
    pids: list[int] = []
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        for number in range(200):
            pids.append(Victim(crasher).die())
            if number % 20 == 10:
                daemon.stop(signal.SIGKILL if number % 40 == 10 else signal.SIGTERM)
                pids.append(Victim(crasher).die())
                daemon.start()
        wait_for(
            lambda: not {"recorded", "queued", "held"} & {fate for _, fate, _ in fates(daemon)}, "final fates", 120.0
        )
    assert Counter(fate for _, fate, _ in fates(daemon)).keys() <= {"collected", "interrupted"}
    inodes = [
        marker["core"]["inode"] for manifest in daemon.incidents() for marker in manifest["markers"] if marker["core"]
    ]
    assert len(pids) == 210
    assert sorted(inodes) == sorted(os.stat(path).st_ino for path in daemon.cores.iterdir())


def test_notify_reaches_the_daemon_from_a_unit_that_failed(
    daemon_factory: Callable[..., Daemon], tmp_path: Path
) -> None:
    """What a unit of OnFailure= runs, with the variables that systemd sets for it."""
    daemon = daemon_factory(only("told"))
    environment = {**os.environ, "MONITOR_SERVICE_RESULT": "core-dump", "MONITOR_EXIT_CODE": "dumped"}
    environment |= {"MONITOR_EXIT_STATUS": "SEGV", "MONITOR_UNIT": "engine.service"}
    command = [*COLLECTOR, "notify", "--systemd", "UNIT=engine.service", "--socket", f"{daemon.runtime}/notify.sock"]
    subprocess.run(command, env=environment, check=True)
    (manifest,) = daemon.wait_for_incidents(1)
    marker = manifest["markers"][0]
    assert (marker["unit"], marker["signal"]) == ("engine.service", signal.SIGSEGV)


def test_a_datagram_in_a_flood_is_not_lost_silently(daemon_factory: Callable[..., Daemon]) -> None:
    """The socket's queue is short; a sender that does not wait is told."""
    daemon = daemon_factory(only("told"))
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        for number in range(200):
            try:
                client.sendto(f"COMM=c{number}".encode(), f"{daemon.runtime}/notify.sock")
                sent += 1
            except BlockingIOError:
                continue
    wait_for(lambda: len(fates(daemon)) == sent, "a row for each")
