"""Attacks by a process that is looked at: another in its place, a tree of its own, privileges, secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from harness import (
    COLLECTOR,
    CORES,
    HERE,
    HOLD,
    Daemon,
    Victim,
    config_of,
    contents,
    core_pattern,
    in_turn,
    segment,
    wait_for,
)

pytestmark = pytest.mark.root
NOBODY = 65534
SUID_DUMPABLE = Path("/proc/sys/fs/suid_dumpable")
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
MEMORY = "{id: memory, collector: proc_files}"
TABLE = "{id: processes, collector: process_table}"
DETAILS = "{id: details, collector: process}"
MATCHING = "{id: details, collector: process, with: {match: [%s]}}"
CORE = "{id: core, collector: core}"
SEGMENTS = "{id: segments, collector: shm, with: {from: crashed_process}}"
ALL = (MEMORY, TABLE, "{id: kernel_log, collector: dmesg}", CORE, SEGMENTS)


def test_recycled_pid_is_not_taken_for_the_process_that_was_meant(daemon_factory: Callable[..., Daemon]) -> None:
    """A PID that is another process's by the time it is read: the step says so, and has nothing of that process."""
    daemon = daemon_factory(config_of(HOLD, TABLE, in_turn(DETAILS)), start=False)
    fifo = daemon.directory / "hold"
    os.mkfifo(fifo)
    command = [*COLLECTOR, "run", "--now", "--json", "--config", str(daemon.config), "--pid"]
    recycler = [*NAMESPACE, sys.executable, str(HERE / "recycler.py"), str(fifo), *command]
    done = subprocess.run(recycler, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3, done.stderr
    steps = {step["id"]: step for step in json.loads(done.stdout)["steps"]}
    assert steps["hold"]["status"] == "ok"
    assert steps["details"]["status"] == "failed"
    assert "another process has PID" in steps["details"].get("reason", "")
    for path, data in contents(daemon.archive).items():
        assert b"WHO=impostor" not in data, path
        assert "/environ" not in path


def test_live_process_is_not_taken_for_one_that_crashed_before_it_was_born(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """A core tells no start time: who has its PID now, but did not live when it was dumped, is somebody else."""
    daemon = daemon_factory(config_of(DETAILS, SEGMENTS))
    with segment("bystander", 4096, {0: b"bystander"}) as path, core_pattern(f"{daemon.cores}/core.%e.%p.%t"):
        bystander = Victim(crasher, path)
        try:
            (daemon.cores / f"core.engine.{bystander.process.pid}.{int(time.time()) - 60}").write_bytes(b"x")
            (manifest,) = daemon.wait_for_incidents(1)
        finally:
            bystander.process.kill()
    assert manifest["markers"][0]["process"]["pid"] == bystander.process.pid
    steps = {step["id"]: step for step in manifest["steps"]}
    assert "another process has PID" in steps["details"].get("reason", "")
    assert [one["path"] for one in steps["details"]["artifacts"]] == ["details/inventory.jsonl"]
    assert not [one for one in steps["segments"]["artifacts"] if one.get("source") == path]


# What a process sets up that wants a root daemon to read or run its own files: it is nobody, and root in its own world.
HOSTILE = """
set -e
mount --bind {cores} {root}{cores}
mount -t tmpfs hostile {root}/dev/shm
head -c 4096 /dev/zero > {root}/dev/shm/engine
exec chroot {root} /crasher /dev/shm/engine
"""


def plant_root(root: Path, crasher_source: Path, cores: Path) -> None:
    """Make a tree with a program and with what a collector might look for."""
    for directory in ("etc", "proc/1", "dev/shm", "usr/lib", str(cores).lstrip("/")):
        (root / directory).mkdir(parents=True)
    for name in ("etc/os-release", "etc/passwd", "etc/hostname", "proc/meminfo", "proc/1/environ", "core"):
        (root / name).write_text("SENTINEL")
    (root / "usr/lib/libc.so.6").write_text("SENTINEL")
    subprocess.run(["gcc", "-static", "-o", str(root / "crasher"), str(crasher_source)], check=True)


@contextmanager
def opened_files(daemon: Daemon, trace: Path) -> Iterator[None]:
    """Write every path that the daemon and its workers open or run to *trace*."""
    pids = [str(daemon.pid), *(str(worker.pid) for worker in psutil.Process(daemon.pid).children())]
    attach = [argument for pid in pids for argument in ("-p", pid)]
    calls = "trace=open,openat,openat2,execve,execveat,chdir,chroot,setns"
    strace = subprocess.Popen(["strace", "-f", "-y", "-qq", "-e", calls, "-o", str(trace), *attach])
    try:
        wait_for(lambda: all("TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text() for pid in pids), "strace")
        yield
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait()


def test_nothing_is_read_or_run_in_the_tree_of_a_process(daemon_factory: Callable[..., Daemon], tmp_path: Path) -> None:
    """A crash in namespaces and in a root of its own: its links are text, its files are not touched."""
    daemon = daemon_factory(config_of(MATCHING % "crasher", *ALL))
    root = tmp_path / "hostile"
    plant_root(root, HERE / "crasher.c", daemon.cores)
    script = HOSTILE.format(root=root, cores=daemon.cores)
    world = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urmpf", "--mount-proc"]
    trace = tmp_path / "trace"
    with opened_files(daemon, trace), core_pattern(f"{daemon.cores}/core.%e.%p"):
        process = Victim(*world, "sh", "-c", script).process
        assert daemon.run("run", "--now").returncode in {0, 3}
        process.stdin.close()
        process.wait()
        manifests = daemon.wait_for_incidents(2)
    assert sorted(manifest["markers"][0]["trigger"] for manifest in manifests) == ["cores", "manual"]
    links = [data for path, data in contents(daemon.archive).items() if path.endswith("/links.json")]
    assert any(str(root).encode() in data for data in links), "the process was looked at"
    assert "SENTINEL" not in str(contents(daemon.archive))
    opened = trace.read_text()
    assert "/stat" in opened
    assert not re.findall(
        rf"^.*(?:{root}/|/proc/[0-9]+/(?:root|cwd|exe)\b|\b(?:execve|setns|chroot|chdir)).*", opened, re.MULTILINE
    )


@contextmanager
def suid_dumpable(value: int) -> Iterator[None]:
    """Let set-id processes dump; what was set before is set again."""
    before = SUID_DUMPABLE.read_text()
    try:
        SUID_DUMPABLE.write_text(str(value))
        yield
    finally:
        SUID_DUMPABLE.write_text(before)


@pytest.mark.parametrize("dumpable", [1, 2])
def test_memory_of_a_set_id_process_is_for_root_only(
    daemon_factory: Callable[..., Daemon], crasher: Path, tmp_path: Path, dumpable: int
) -> None:
    """Started by nobody, with root's privileges: what is archived of it is root's, 0600 in 0700, with any umask."""
    program = tmp_path / "privileged"
    shutil.copy(crasher, program)
    program.chmod(0o4755)
    daemon = daemon_factory(start=False)
    daemon.start("sh", "-c", 'umask 0; exec "$@"', "sh")
    with core_pattern(f"{daemon.cores}/core.%e.%p"), suid_dumpable(dumpable), segment("private", 4096, {}) as path:
        Victim(program, path, user=NOBODY).die()
        (manifest,) = daemon.wait_for_incidents(1)
        wait_for(lambda: "incident.sealed" in daemon.log.read_text(), "digests")
    assert {"core/core", "core/core.json"} <= {one["path"] for step in manifest["steps"] for one in step["artifacts"]}
    for file in (daemon.archive, daemon.runtime, *daemon.archive.rglob("*"), *daemon.runtime.rglob("*")):
        status = file.lstat()
        assert (status.st_uid, status.st_mode & 0o077) == (0, 0), file


# No part of a value is part of a name, so that one that is found anywhere has leaked.
SECRETS = {
    "DB_PASSWORD": "hunter2-environ",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "DATABASE_URL": "postgres://app:s3cr3t-in-url@db/app",
    "GITHUB_TOKEN": "ghp_16C7e42F292c69",
}
ARGUMENTS = ["--api-token", "sk-live-argument", "--password=hunter2-argument", "-H", "Authorization: Bearer eyJhbGciOi"]
LEAKS = ("hunter2", "wJalrXUtnFEMI", "s3cr3t-in-url", "ghp_16C7e42F292c69", "sk-live", "eyJhbGciOi")


def test_secrets_of_processes_and_commands_are_in_no_incident_and_no_log(
    daemon_factory: Callable[..., Daemon], actor: Path
) -> None:
    """Environment and arguments of one that crashes, of one that lives, and of a command of the operator's own."""
    command = '{id: told, collector: command, with: {argv: [/bin/true, "--api-token", "sk-live-command"]}}'
    core = "{id: core, collector: core, with: {keep: none}}"  # a core is the process's memory, environment included
    exits = "{id: exits, type: process_exits, rules: [{comm: [secretive]}], pipeline: crash}"
    steps = (command, MATCHING % "secretive", core, *(step for step in ALL if step != CORE))
    config = config_of(*steps, triggers=(CORES, exits))
    daemon = daemon_factory(config)
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        crashing, living = (Victim(actor, "secretive", *ARGUMENTS, environment=SECRETS) for _ in range(2))
        try:
            crashing.die()
            manifests = daemon.wait_for_incidents(1)
        finally:
            living.process.kill()
    found = contents(daemon.archive)
    environ = next(data for path, data in found.items() if path.endswith(f"{living.process.pid}/environ"))
    assert b"DB_PASSWORD=" in environ
    assert [path for path in found if path.endswith("core/core.json")]
    shown = daemon.run("show", manifests[0]["id"]).stdout + daemon.run("status").stdout
    text = {**found, "log": daemon.log.read_bytes(), "shown": shown.encode()}
    assert [(path, leak) for path, data in text.items() for leak in LEAKS if leak.encode() in data] == []
