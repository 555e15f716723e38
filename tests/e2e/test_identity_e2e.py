"""Whose crash it is: real processes in namespaces, with threads, set-id bits, and names that lie."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, CORES, CRASHER, EXITS, MEMORY, NOTIFY, SEGMENTS, UNBOUNDED, config_of
from fake_core import NT_FILE, NT_PRPSINFO, NT_PRSTATUS, core, note, nt_file, prpsinfo, prstatus
from harness import Daemon, Victim, contents, segment, steps_of, wait_for
from machine import PROC_CONNECTOR, core_pattern, every_fault_logged

pytestmark = pytest.mark.root
NOBODY = 65534
DETAILS = "{id: details, collector: process}"
KERNEL = "{id: kernel, type: kernel_log, events: [segfault], pstore: false, pipeline: crash}"
Factory = Callable[..., Daemon]


def rows(daemon: Daemon, manifest: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the lines of ``segments/NAME.jsonl`` or ``details/NAME.jsonl`` of an incident."""
    (path,) = (daemon.archive / manifest["id"]).rglob(f"{name}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def bystander(crasher: Path, *files: str) -> Iterator[int]:
    """Run a process of root's that has not crashed; yield its PID."""
    victim = Victim(crasher, *files, environment={"WHO": "bystander"})
    try:
        yield victim.process.pid
    finally:
        victim.process.kill()
        victim.process.wait()


def die_known(victim: Victim) -> int:
    """Let a process live until its exec event has been looked at, then crash it; return its PID."""
    time.sleep(0.6)
    return victim.die()


def nothing_of_the_bystander(daemon: Daemon) -> bool:
    """Return whether no file of the archive has its environment or its segment."""
    return not any(
        b"WHO=bystander" in data or b"of the bystander" in data for data in contents(daemon.archive).values()
    )


@pytest.mark.parametrize("pattern", ["core.%e.%p.%t", "core.%e.%p.%h.%t"])
@pytest.mark.parametrize("host", ["10.2.3.17", "host"])
def test_crash_in_a_pid_namespace_is_not_taken_for_the_host_process_of_that_number(
    daemon_factory: Factory, crasher: Path, pattern: str, host: str
) -> None:
    """`%p` is a number of the namespace: the host's process of that number lives on, and nothing of it is kept."""
    daemon = daemon_factory(config_of(DETAILS, CORE, SEGMENTS))
    with segment("bystander", 4096, {0: b"of the bystander"}) as path, bystander(crasher, path) as pid:
        script = f"hostname {host}; echo {pid - 1} > /proc/sys/kernel/ns_last_pid; {crasher} </dev/null & wait $!"
        with core_pattern(f"{daemon.cores}/{pattern}"):
            command = [
                "unshare",
                "--pid",
                "--uts",
                "--fork",
                "--mount-proc",
                "sh",
                "-c",
                f"ulimit -c unlimited; {script}",
            ]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
            (manifest,) = daemon.wait_for_incidents(1)
    (marker,) = manifest["markers"]
    assert marker["inner_pid"] == pid
    assert marker["process"] is None
    sentence = f"its PID {pid} is one of its own PID namespace, or reused"
    assert sentence in marker["reason"]
    assert sentence in daemon.run("show", "latest", "--steps").stdout
    assert any(sentence in event.get("reason", "") for event in daemon.events() if event["event"] == "marker.ruled")
    assert steps_of(manifest)["details"]["status"] == "not_applicable"
    assert nothing_of_the_bystander(daemon)


def test_host_name_with_digits_is_not_taken_for_a_pid(daemon_factory: Factory, crasher: Path) -> None:
    """In a UTS namespace of that name a real core is read by its notes; PID 2 has not crashed."""
    daemon = daemon_factory(config_of(DETAILS, CORE))
    script = f"ulimit -c unlimited; hostname 10.2.3.17; {crasher} </dev/null"
    with core_pattern(f"{daemon.cores}/core.%e.%p.%h.%t"):
        subprocess.run(["unshare", "--uts", "sh", "-c", script], check=False, stdout=subprocess.DEVNULL)
        (manifest,) = daemon.wait_for_incidents(1)
    (marker,) = manifest["markers"]
    summary = json.loads((daemon.archive / manifest["id"] / "core/core.json").read_text(encoding="utf-8"))
    assert marker["inner_pid"] == summary["pid"]
    assert marker["comm"] == CRASHER


def fake(pid: int, *files: str) -> bytes:
    """Return a core that claims to be of *pid* and to have mapped *files*."""
    listed = nt_file([(number << 12, (number + 1) << 12, 0, name.encode()) for number, name in enumerate(files, 1)])
    notes = note(NT_PRSTATUS, prstatus(pid, 11, (0,) * 27)) + note(NT_PRPSINFO, prpsinfo(pid, b"engine", b"engine"))
    return core(notes + note(NT_FILE, listed))


@pytest.mark.parametrize("owner", [NOBODY, 0])
@pytest.mark.parametrize("content", ["byte", "core"])
def test_core_that_names_a_living_process_has_nothing_of_it(
    daemon_factory: Factory, crasher: Path, owner: int, content: str
) -> None:
    """A file named like systemd's with the PID of root's engine; whoever has left a complete core does not live."""
    daemon = daemon_factory(config_of(DETAILS, CORE, SEGMENTS))
    with segment("bystander", 4096, {0: b"of the bystander"}) as path, bystander(crasher, path) as pid:
        name = daemon.cores / f".core.{CRASHER}.{owner}.{'0' * 32}.{pid}.{int(time.time())}000000"
        name.write_bytes(b"x" if content == "byte" else fake(pid, path))
        os.chown(name, owner, owner)
        name.rename(name.with_name(name.name[1:]))
        (manifest,) = daemon.wait_for_incidents(1)
        segments = rows(daemon, manifest, "segments")
    (marker,) = manifest["markers"]
    assert (marker["process"] is None) == (owner == NOBODY)
    assert not any(one["path"].endswith("/environ") for one in steps_of(manifest)["details"]["artifacts"])
    if owner == NOBODY:
        assert nothing_of_the_bystander(daemon)
        assert [row.get("artifact") for row in segments] == ([None] if content == "core" else [])
        assert steps_of(manifest)["segments"]["status"] == "truncated"
    else:  # root may leave a core of whatever it likes, but its names are names
        assert all("not confirmed" in row["why"] for row in segments)


@pytest.mark.needs(PROC_CONNECTOR)
def test_segment_of_a_private_shm_is_not_the_hosts_of_that_name(daemon_factory: Factory, crasher: Path) -> None:
    """A container has its own /dev/shm: the host's file of the same name is offered as no more than that."""
    daemon = daemon_factory(config_of(CORE, SEGMENTS, triggers=(CORES, EXITS)))
    with segment("shared-name", 4096, {0: b"of the host"}) as path, core_pattern(f"{daemon.cores}/core.%e.%P"):
        script = f"mount -t tmpfs none /dev/shm && head -c 4096 /dev/zero > {path} && exec {crasher} {path}"
        die_known(Victim("/usr/bin/unshare", "--mount", "sh", "-c", script))
        (manifest,) = daemon.wait_for_incidents(1)
        die_known(Victim(crasher, path))
        confirmed = daemon.wait_for_incidents(2)[1]
    (row,) = rows(daemon, manifest, "segments")
    assert row["why"] == "same name as one mapped by the crashed process, not confirmed"
    (row,) = rows(daemon, confirmed, "segments")
    assert row["why"] == "mapped by the crashed process"


@pytest.mark.needs(PROC_CONNECTOR)
def test_set_id_program_is_its_users_own(daemon_factory: Factory, crasher: Path, tmp_path: Path) -> None:
    """Whoever starts root's 4755 program under the engine's name spends his own budget."""
    program = tmp_path / CRASHER
    shutil.copy(crasher, program)
    program.chmod(0o4755)
    storm = {**UNBOUNDED, "per_executable": {"count": 1}}
    daemon = daemon_factory(config_of(MEMORY, triggers=(EXITS,), storm=storm))
    for victim in [Victim(program, user=NOBODY) for _ in range(3)]:
        die_known(victim)
    wait_for(lambda: len(daemon.ledger("id")) == 6, "two rows of each: it dumps core, and it has died")
    assert {row[0] for row in daemon.ledger("uid")} == {NOBODY}
    pid = die_known(Victim(crasher))
    wait_for(lambda: [one for one in daemon.incidents() if one["markers"][0]["process"]["pid"] == pid], "incident")


@pytest.mark.needs(PROC_CONNECTOR)
@pytest.mark.parametrize("pattern", ["core.%e.%p", "core.%e.%P", "core.%i"])
def test_crash_of_a_thread_is_one_incident_of_its_process(daemon_factory: Factory, threads: Path, pattern: str) -> None:
    """The kernel's line has the thread's number and name, the core the process's number and the thread's name."""
    named = f"{{id: named, collector: proc_files, when: {{comm: [{CRASHER}]}}}}"
    by_thread = "{id: by_thread, collector: proc_files, when: {comm: [worker-3]}}"
    daemon = daemon_factory(config_of(MEMORY, named, by_thread, triggers=(CORES, EXITS, KERNEL)))
    with core_pattern(f"{daemon.cores}/{pattern}"), every_fault_logged():
        pid = die_known(Victim(threads))
        wait_for(lambda: len(daemon.ledger("id")) >= 3, "three rows")
        wait_for(daemon.incidents, "incident")
    (manifest,) = daemon.incidents()
    assert {marker["trigger"] for marker in manifest["markers"]} == {"cores", "exits", "kernel"}
    assert {marker["process"]["pid"] for marker in manifest["markers"] if not marker["doubtful"]} == {pid}
    assert {marker["thread"] for marker in manifest["markers"] if marker["thread"]} == {pid + 1}
    assert {"named", "by_thread"} <= set(steps_of(manifest))


HANDLER = """#!/bin/sh
sleep 3
cat > {cores}/.core.slow.$1
mv {cores}/.core.slow.$1 {cores}/core.slow.$1
"""


@pytest.mark.needs(PROC_CONNECTOR)
def test_core_that_takes_long_joins_the_incident_that_its_crash_has_already(
    daemon_factory: Factory, crasher: Path
) -> None:
    """The kernel holds the process while its core is written: it is looked at first, and the core awaited."""
    daemon = daemon_factory(config_of(DETAILS, CORE, SEGMENTS, triggers=(CORES, EXITS)))
    handler = daemon.directory / "handler"
    handler.write_text(HANDLER.format(cores=daemon.cores))
    handler.chmod(0o755)
    with segment("mine", 4096, {0: b"of the crash"}) as path, core_pattern(f"|{handler} %P"):
        victim = Victim(crasher, path, environment={"WHO": "crashed"})
        pid = die_known(victim)
        (manifest,) = daemon.wait_for_incidents(1)
    steps = steps_of(manifest)
    assert {step["status"] for step in steps.values()} == {"ok"}
    assert f"details/{pid}/environ" in {one["path"] for one in steps["details"]["artifacts"]}
    assert "core/core" in {one["path"] for one in steps["core"]["artifacts"]}
    wait_for(lambda: {row[0] for row in daemon.ledger("fate")} == {"collected", "joined"}, "all witnesses in it")
    assert len(daemon.incidents()) == 1


def test_workers_that_die_together_have_an_incident_each(daemon_factory: Factory, crasher: Path) -> None:
    """Three processes of one name within the time in which witnesses are joined."""
    daemon = daemon_factory(config_of(CORE, storm={**UNBOUNDED, "coalesce": "5s"}))
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        pids = {victim.die() for victim in [Victim(crasher) for _ in range(3)]}
        manifests = daemon.wait_for_incidents(3)
    assert {marker["process"]["pid"] for manifest in manifests for marker in manifest["markers"]} == pids
    assert all(steps_of(manifest)["core"]["status"] == "ok" for manifest in manifests)


def test_report_of_a_unit_and_the_core_of_its_main_process_are_one(daemon_factory: Factory, crasher: Path) -> None:
    """systemd starts the OnFailure= unit after the core was collected, or before."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(CORES, NOTIFY)))
    facts = ("UNIT=engine.service", "MONITOR_SERVICE_RESULT=core-dump", "MONITOR_EXIT_STATUS=SEGV")
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        first = Victim(crasher).die()
        daemon.wait_for_incidents(1)
        assert daemon.run("notify", *facts, f"PID={first}").returncode == 0
    with core_pattern(f"{daemon.directory}/core.%e.%P"):
        second = Victim(crasher).die()
        assert daemon.run("notify", *facts, f"PID={second}").returncode == 0
        wait_for(lambda: len(daemon.ledger("id")) == 3, "its row")
        name = f"core.{CRASHER}.{second}"
        (daemon.directory / name).rename(daemon.cores / name)
        expected = ["collected", "joined", "collected", "joined"]
        wait_for(lambda: [row[0] for row in daemon.ledger("fate")] == expected, "two incidents of two rows each")


def test_pid_that_is_taken_again_at_once_is_somebody_elses(daemon_factory: Factory, crasher: Path) -> None:
    """Before the core is looked at, another process has its PID: it is not dying, so it is not the one."""
    daemon = daemon_factory(config_of(DETAILS, CORE, SEGMENTS))
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            pid = Victim(crasher, environment={"WHO": "crashed"}).die()
            impostor = _take(pid)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        with impostor:
            (manifest,) = daemon.wait_for_incidents(1)
            impostor.kill()
    assert manifest["markers"][0]["process"] == {"pid": pid, "start_time_ticks": None}
    assert not any(b"WHO=impostor" in data for data in contents(daemon.archive).values())


def _take(pid: int) -> subprocess.Popen[bytes]:
    """Start a process with that PID; others may get it first."""
    for _ in range(100):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(["/bin/sleep", "600"], env={"WHO": "impostor"})
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    raise AssertionError(f"PID {pid} cannot be had")
