"""Attacks by processes under observation: reused PIDs, their own root directory, privileges, secrets."""

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
from configuration import CORE, CORES, HOLD, KERNEL_LOG, MEMORY, SEGMENTS, TABLE, config_of, in_turn
from harness import (
    COLLECTOR,
    HERE,
    Daemon,
    Victim,
    contents,
    segment,
    steps_of,
    wait_for,
)
from machine import PROC_CONNECTOR, compiled, core_pattern, sysctl
from redaction_rows import SECRET, arguments_of, rows

pytestmark = pytest.mark.root
NOBODY = 65534
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
DETAILS = "{id: details, collector: process}"
MATCHING = "{id: details, collector: process, with: {match: [%s]}}"
ALL = (MEMORY, TABLE, KERNEL_LOG, CORE, SEGMENTS)


def test_recycled_pid_is_not_taken_for_the_original_process(daemon_factory: Callable[..., Daemon]) -> None:
    """The PID belongs to another process when it is read: the step says so, and collects nothing from it."""
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


def test_live_process_is_not_taken_for_one_that_crashed_before_it_started(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """A core has no start time: a process that has its PID, but started after the dump, is another one."""
    daemon = daemon_factory(config_of(DETAILS, SEGMENTS))
    with segment("bystander", 4096, {0: b"bystander"}) as path, core_pattern(f"{daemon.cores}/core.%e.%p.%t"):
        bystander = Victim(crasher, path)
        try:
            (daemon.cores / f"core.engine.{bystander.process.pid}.{int(time.time()) - 60}").write_bytes(b"x")
            (manifest,) = daemon.wait_for_incidents(1)
        finally:
            bystander.process.kill()
    (marker,) = manifest["markers"]
    assert (marker["process"], marker["inner_pid"]) == (None, bystander.process.pid)
    steps = steps_of(manifest)
    assert steps["details"]["status"] == "not_applicable"
    assert [one["path"] for one in steps["details"]["artifacts"]] == ["details/inventory.jsonl"]
    assert not [one for one in steps["segments"]["artifacts"] if one.get("source") == path]


# A process that wants a root daemon to read or run its files: nobody, but root in its own user namespace.
HOSTILE = """
set -e
mount --bind {cores} {root}{cores}
mount -t tmpfs hostile {root}/dev/shm
head -c 4096 /dev/zero > {root}/dev/shm/engine
exec chroot {root} /crasher /dev/shm/engine
"""


def plant_root(root: Path, crasher_source: Path, cores: Path) -> None:
    """Create a root directory with the crasher and with files that a collector might read."""
    for directory in ("etc", "proc/1", "dev/shm", "usr/lib", str(cores).lstrip("/")):
        (root / directory).mkdir(parents=True)
    for name in ("etc/os-release", "etc/passwd", "etc/hostname", "proc/meminfo", "proc/1/environ", "core"):
        (root / name).write_text("SENTINEL")
    (root / "usr/lib/libc.so.6").write_text("SENTINEL")
    compiled(crasher_source, root, "-static")


@contextmanager
def opened_files(daemon: Daemon, trace: Path) -> Iterator[None]:
    """Trace every path that the daemon and its workers open or execute."""
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


def test_nothing_is_read_or_run_in_the_root_of_a_process(daemon_factory: Callable[..., Daemon], tmp_path: Path) -> None:
    """A crash in its own namespaces and root: its links are recorded as text, its files are not opened."""
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


@pytest.mark.parametrize("dumpable", [1, 2])
def test_memory_of_a_set_id_process_is_for_root_only(
    daemon_factory: Callable[..., Daemon], crasher: Path, tmp_path: Path, dumpable: int
) -> None:
    """A set-uid program that nobody started: its artifacts are root's, 0600 in 0700, with any umask."""
    program = tmp_path / "privileged"
    shutil.copy(crasher, program)
    program.chmod(0o4755)
    daemon = daemon_factory(start=False)
    daemon.start("sh", "-c", 'umask 0; exec "$@"', "sh")
    with (
        core_pattern(f"{daemon.cores}/core.%e.%p"),
        sysctl("fs/suid_dumpable", dumpable),
        segment("private", 4096, {}) as path,
    ):
        Victim(program, path, user=NOBODY).die()
        (manifest,) = daemon.wait_for_incidents(1)
        wait_for(lambda: "incident.sealed" in daemon.log.read_text(), "digests")
    assert {"core/core", "core/core.json"} <= {
        one["path"] for step in manifest["steps"] for one in step.get("artifacts", ())
    }
    for file in (daemon.archive, daemon.runtime, *daemon.archive.rglob("*"), *daemon.runtime.rglob("*")):
        status = file.lstat()
        assert (status.st_uid, status.st_mode & 0o077) == (0, 0), file


# The values share no part with the names: one that is found anywhere has leaked.
SECRETS = {
    "DB_PASSWORD": "hunter2-environ",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "DATABASE_URL": "postgres://app:s3cr3t-in-url@db/app",
    "GITHUB_TOKEN": "ghp_16C7e42F292c69",
    # a number keeps names apart that stand in several rows, and is no part of their words
    **{f"{name}{number}": value for number, (name, _, value) in enumerate(
        entry.decode().partition("=") for entry, _ in rows("environment"))},
}  # fmt: skip
ARGUMENTS = ["--api-token", "sk-live-argument", "--password=hunter2-argument", "-H", "Authorization: Bearer eyJhbGciOi"]
LINES = [b" ".join(arguments_of(line)) for line, _ in rows("arguments")]  # titles of processes, and scripts
LEAKS = (
    SECRET[:6].decode(),
    SECRET[2:].decode(),
    "hunter2",
    "wJalrXUtnFEMI",
    "s3cr3t-in-url",
    "ghp_16C7e42F292c69",
    "sk-live",
    "eyJhbGciOi",
)


@pytest.mark.needs(PROC_CONNECTOR)
def test_secrets_of_processes_and_commands_are_in_no_incident_and_no_log(
    daemon_factory: Callable[..., Daemon], actor: Path, tmp_path: Path
) -> None:
    """Environment and arguments of a crashed process, a live one, and a command step."""
    command = '{id: told, collector: command, with: {argv: [/bin/true, "--api-token", "sk-live-command"]}}'
    core = "{id: core, collector: core, with: {keep: none}}"  # a core is the process's memory, environment included
    exits = "{id: exits, type: process_exits, rules: [{comm: [secretive]}], pipeline: crash}"
    steps = (command, MATCHING % "secretive", core, *(step for step in ALL if step != CORE))
    config = config_of(*steps, triggers=(CORES, exits))
    mysql = tmp_path / "mysql"
    mysql.symlink_to(actor)
    daemon = daemon_factory(config)
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        crashing = Victim(mysql, "secretive", f"-p{SECRET.decode()}", *ARGUMENTS, environment=SECRETS)
        living = Victim(mysql, "secretive", *ARGUMENTS, *LINES, environment=SECRETS)
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
