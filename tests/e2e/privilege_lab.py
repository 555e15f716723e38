"""A daemon with chosen capabilities, and all that the shipped collectors and triggers do with them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from configuration import config_of
from harness import NOBODY, Daemon, Victim, answer_of, as_nobody, segment, status_of, steps_of, wait_for
from machine import core_pattern

from collector.daemon.messages import RunRequest
from collector.host.syscalls import syscall
from collector.model.marker import ProcessRef

UNIT = Path(__file__).parents[2] / "systemd" / "collector.service"
PIDFD_GETFD = 438
DIRECTORIES = {
    "roots": (0o1777, 0),
    "users": (0o755, NOBODY),
    "group": (0o775, NOBODY),
    "secret": (0o700, NOBODY),
    "open": (0o755, 0),
}
EXITS = ("roots", "group", "users")
STEPS = (
    "{id: memory, collector: proc_files}",
    "{id: processes, collector: process_table}",
    "{id: process, collector: process}",
    "{id: cgroup, collector: cgroup}",
    "{id: network, collector: network}",
    "{id: block, collector: block}",
    "{id: kernel_log, collector: dmesg}",
    "{id: core, collector: core}",
    "{id: segments, collector: shm, with: {from: crashed_process}}",
    "{id: files, collector: files, with: {paths: [$directory/secret/*]}}",
    "{id: command, collector: command, with: {argv: [/bin/sh, -c, 'sleep 1000 >/dev/null 2>&1 & id -u']}}",
)
TRIGGERS = (
    '{id: cores, type: core_files, paths: [$cores], match: ["core*"], pipeline: crash}',
    "{id: deaths, type: process_exits, rules: [{comm: [nothing_has_this]}], pipeline: crash}",
    "{id: kernel, type: kernel_log, events: [oom_kill], pipeline: crash}",
    "{id: memory_pressure, type: memory_pressure, stall: 1999ms, window: 2s, pipeline: crash}",
    "{id: roots, type: exit_files, paths: [$directory/roots], pipeline: crash}",
    "{id: group, type: exit_files, paths: [$directory/group], pipeline: crash}",
    "{id: users, type: exit_files, paths: [$directory/users], pipeline: crash}",
    "{id: told, type: notify, socket: $directory/open/notify.sock, unprivileged: attribute, pipeline: crash}",
)
CONFIG = config_of(*STEPS, triggers=TRIGGERS)


def shipped_capabilities() -> tuple[str, ...]:
    """Return the unit's bounding set."""
    (line,) = [line for line in UNIT.read_text(encoding="utf-8").splitlines() if line.startswith("CapabilityBo")]
    return tuple(line.partition("=")[2].split())


def prepare(directory: Path) -> None:
    """Make the directories that the configuration names, and a private file of nobody's."""
    for name, (mode, owner) in DIRECTORIES.items():
        (directory / name).mkdir()
        (directory / name).chmod(mode)
        os.chown(directory / name, owner, -1)
    private = directory / "secret" / "log"
    private.touch(mode=0o600)
    os.chown(private, NOBODY, -1)


def observe(daemon: Daemon, crasher: Path, capabilities: set[str]) -> dict[str, str]:
    """Start *daemon* with *capabilities*, have it do everything, and return what came of it, by subject."""
    prepare(daemon.directory)
    daemon.cores.chmod(0o1733)
    kept = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(capabilities))])
    with _unfinished_exit_file(daemon):
        daemon.start("setpriv", f"--bounding-set={kept}", "--inh-caps=-all", "--no-new-privs")
        seen = {f"trigger {name}": state.partition(":")[0] for name, state in status_of(daemon).triggers.items()}
        seen |= _memory_and_priorities(daemon)
        with ExitStack() as stack:
            seen |= _live_process(daemon, crasher, stack)
            seen |= _crash(daemon, crasher, stack)
        seen["exit file that is being written"] = "read" if "roots" in _ruled(daemon) else "waited for"
    seen |= _exit_files(daemon)
    seen["stop"] = str(daemon.stop())
    return seen


def _write(daemon: Daemon, script: str) -> None:
    """Run *script* in the daemon's directory, as nobody."""
    command = [*as_nobody(daemon.directory), "sh", "-c", f"cd {daemon.directory}; {script}"]
    subprocess.run(command, check=True)


@contextmanager
def _unfinished_exit_file(daemon: Daemon) -> Iterator[None]:
    """Keep an exit file of nobody's open for writing during the block; it was there before the daemon started."""
    path = daemon.directory / "roots" / "unfinished"
    path.write_bytes(b"PID=4000077")
    os.chown(path, NOBODY, -1)
    with path.open("ab"):
        yield
    path.unlink(missing_ok=True)


def _memory_and_priorities(daemon: Daemon) -> dict[str, str]:
    workers = psutil.Process(daemon.pid).children()
    return {
        "memory locks": str(all(_status(one)["VmLck"].split()[0] != "0" for one in (daemon.pid, workers[0].pid))),
        "nice of workers": str(min(worker.nice() for worker in workers)),
        "buffer for exits": str(_netlink_buffer(daemon.pid) > 1 << 20),
    }  # fmt: skip


def _status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def _netlink_buffer(pid: int) -> int:
    """Return the size of the receive buffer of a process's netlink socket; 0 if it has none."""
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=syscall(PIDFD_GETFD, pidfd, int(name), 0)) as found:
                    if found.family == socket.AF_NETLINK:
                        return found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    finally:
        os.close(pidfd)
    return 0


def _live_process(daemon: Daemon, crasher: Path, stack: ExitStack) -> dict[str, str]:
    """Collect a live process of nobody's, one of whose segments has no name any more."""
    path = _segment("removed", stack)
    victim = Victim(crasher, path, user=NOBODY)
    stack.callback(victim.process.wait)
    stack.callback(victim.process.kill)
    os.rename(path, f"{path}.old")
    os.unlink(f"{path}.old")
    Path(path).touch()  # the helper removes it
    ticks = int(Path(f"/proc/{victim.process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    process = ProcessRef(pid=victim.process.pid, start_time_ticks=ticks)
    answer = answer_of(daemon, RunRequest(processes=(process,)))
    return _ends("live", daemon.archive / str(getattr(answer, "incident", "")))


def _crash(daemon: Daemon, crasher: Path, stack: ExitStack) -> dict[str, str]:
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        victim = Victim(crasher, _segment("mapped", stack), user=NOBODY)
        time.sleep(0.6)  # long enough for its exec event to be looked at
        pid = victim.die()

    def found() -> list[Path]:
        manifests = daemon.archive.glob("*Z-??????/manifest.json")
        return [path.parent for path in manifests if f"core.{crasher.name}.{pid}" in path.read_text()]

    return _ends("crash", wait_for(found, "incident of the crash")[0])


def _segment(name: str, stack: ExitStack) -> str:
    path: str = stack.enter_context(segment(name, 1 << 20, {0: b"x" * 4096}))
    os.chown(path, NOBODY, -1)
    return path


def _ends(what: str, incident: Path) -> dict[str, str]:
    """Return how each step ended, and which files it could not read; without PIDs."""
    manifest: dict[str, Any] = json.loads((incident / "manifest.json").read_text())
    seen = {f"{what}: {name}": step["status"] for name, step in steps_of(manifest).items()}
    for path in incident.glob("*/unread.jsonl"):
        rows = map(json.loads, path.read_text().splitlines())
        denied = (row["path"] for row in rows if row["error"] in {"EPERM", "EACCES"})
        names = {re.sub(r"^/proc/\d+/|task/\d+/|(?<=ns/).*|.*/(?=secret)", "", path) for path in denied}
        if names:
            seen[f"{what}: {path.parent.name}, unread"] = " ".join(sorted(names))
    return seen


def _ruled(daemon: Daemon) -> set[str]:
    """Return the triggers whose markers have been ruled on."""
    return {event["trigger"] for event in daemon.events() if event["event"] == "marker.ruled"}


def _exit_files(daemon: Daemon) -> dict[str, str]:
    """Leave an exit file of nobody's in each directory; return whether it is removed."""
    for name in EXITS:
        _write(daemon, f"echo PID=4000077 > {name}/.new; mv {name}/.new {name}/exit")
    wait_for(lambda: set(EXITS) <= _ruled(daemon), "markers")
    time.sleep(2.5)  # a file is removed at the next look, within a second
    left = {name: os.listdir(daemon.directory / name) for name in EXITS}
    return {f"exit files in {name}": "stay" if found else "removed" for name, found in left.items()}
