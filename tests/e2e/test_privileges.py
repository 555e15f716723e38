"""What the shipped unit allows: enough for everything that is collected, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from configuration import NOTIFY, config_of
from harness import NOBODY, Daemon, open_up, segment, steps_of, wait_for
from machine import PROC_CONNECTOR, core_pattern, sysctl
from privilege_lab import CONFIG, EXITS, observe, prepare, shipped_capabilities
from systemd_machine import UNITS, Machine

from collector.host.capabilities import CHECKPOINT_RESTORE, SYS_ADMIN

CORES = "/var/lib/systemd/coredump"
STEPS_OF_A_CRASH = {
    "memory",
    "processes",
    "process",
    "cgroup",
    "network",
    "block",
    "kernel_log",
    "core",
    "segments",
    "files",
    "command",
}
TOLD = "told-by-nobody"
REFUSED = {
    "unshare -U true": "Operation not permitted",
    "unshare -m true": "Operation not permitted",
    "mount -t tmpfs none /mnt": "permi",
    "mknod /var/tmp/node b 8 0": "Operation not permitted",
    "chown 65534 /run/collector": "Operation not permitted",
    "touch /usr/file": "Read-only file system",
    "tee /proc/sys/vm/overcommit_ratio": "Read-only file system",
    "tee /proc/sys/kernel/core_pattern": "Read-only file system",  # it can start any program outside of the sandbox
    "cat /dev/mem": "No such file or directory",
    "chmod u+s /run/collector": "Operation not permitted",
}
HOSTILE = "import os; open(os.environ['PLANTED_MARK'], 'a').write(__name__ + chr(10))\n"
PLANTED = ("sitecustomize.py", "usercustomize.py", "structlog.py", "click.py", "collector/__init__.py")


def plant(directory: Path) -> dict[str, str]:
    """Fill *directory* with modules that leave a mark when they are imported; return what makes Python find them."""
    for name in PLANTED:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(HOSTILE)
    return {
        "PYTHONPATH": str(directory),
        "PYTHONSTARTUP": str(directory / "structlog.py"),
        "PYTHONUSERBASE": str(directory),
        "PLANTED_MARK": str(directory / "mark"),
    }


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, planted: Path) -> Iterator[Machine]:
    """A machine whose service has a hostile environment, and watches the directories of the laboratory."""
    scratch = tmp_path_factory.mktemp("machine")
    open_up(scratch)
    hostile = "".join(f"Environment={name}={value}\n" for name, value in plant(planted).items())
    drop_in = f"[Service]\n{hostile}WorkingDirectory={planted}\n"
    opened = Machine(scratch, {"collector.service.d/hostile.conf": drop_in})
    try:
        prepare(scratch)
        opened.run("chmod", "1733", CORES)
        done = opened.configure(inside(opened, CONFIG))
        assert done.returncode == 0, done.stderr
        yield opened
    finally:
        opened.close()


def inside(machine: Machine, config: str) -> str:
    """Return *config* for the machine's directories."""
    where = {"archive": "/var/lib/collector", "runtime": "/run/collector", "cores": CORES}
    for name, path in {**where, "directory": str(machine.archive.parent)}.items():
        config = config.replace(f"${name}", path)
    return config


@pytest.mark.root
def test_service_collects_a_crash_completely_in_its_sandbox(machine: Machine, crasher: Path) -> None:
    """A core of nobody's, its private segment, the kernel's log, a command: no step lacks a privilege."""
    with segment("sandbox", 1 << 20, {0: b"x" * 4096}) as path, core_pattern(f"{CORES}/core.%e.%P"):
        os.chown(path, NOBODY, -1)
        crash = f"ulimit -c unlimited; exec setpriv --reuid={NOBODY} --clear-groups {crasher} {path} < /dev/null"
        machine.run("bash", "-c", crash)

        def found() -> list[dict[str, Any]]:
            return [one for one in machine.incidents() if crasher.name in str(one["markers"])]

        steps = steps_of(wait_for(found, "incident")[0])
    assert steps.keys() >= STEPS_OF_A_CRASH
    assert {name: step for name, step in steps.items() if step["status"] not in {"ok", "not_applicable"}} == {}
    assert {steps[name]["status"] for name in ("core", "segments", "kernel_log", "command")} == {"ok"}


@pytest.mark.root
def test_service_watches_everything_but_exits_in_its_sandbox(machine: Machine) -> None:
    """The proc connector answers in the initial PID and network namespace only."""
    states = json.loads(machine.run("collector", "status", "--json").stdout)["triggers"]
    assert {name for name, state in states.items() if state != "watching"} == {"deaths"}
    assert "Connection refused" in states["deaths"]


@pytest.mark.root
def test_notify_socket_is_open_to_all_for_their_own_processes(machine: Machine) -> None:
    """As nobody, into the service's sandbox: the marker is nobody's."""
    socket = f"NOTIFY_SOCKET={machine.archive.parent}/open/notify.sock"
    as_nobody = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    assert machine.run(*as_nobody, "env", socket, "systemd-notify", f"REASON={TOLD}").returncode == 0
    markers = wait_for(
        lambda: [one["markers"][0] for one in machine.incidents() if "told-by-nobody" in str(one)], "marker"
    )
    assert (markers[0]["trigger"], markers[0]["uid"]) == ("told", NOBODY)


@pytest.mark.root
def test_only_workers_have_the_capabilities_of_workers(machine: Machine) -> None:
    """The supervisor, which has the sockets and the triggers, sets CAP_SYS_ADMIN aside; each worker takes it up."""
    main = machine.show("collector.service", "MainPID")
    children = machine.run("cat", f"/proc/{main}/task/{main}/children").stdout.split()
    supervisor, *workers = (_effective(machine, pid) for pid in (main, *children))
    assert workers
    for number in (SYS_ADMIN, CHECKPOINT_RESTORE):
        assert not supervisor >> number & 1
        assert all(worker >> number & 1 for worker in workers)


def _effective(machine: Machine, pid: str) -> int:
    (line,) = [x for x in machine.run("cat", f"/proc/{pid}/status").stdout.splitlines() if x.startswith("CapEff:")]
    return int(line.split()[1], 16)


@pytest.mark.root
def test_service_refuses_what_nothing_needs(machine: Machine) -> None:
    """As a command of a pipeline, which has what a worker has: no namespace, mount, device or file of the system."""
    script = "; ".join(f"echo '{command}:' $({command} 2>&1)" for command in REFUSED)
    step = "{id: tried, collector: command, with: {argv: [/bin/sh, -c, SCRIPT]}}".replace("SCRIPT", json.dumps(script))
    assert machine.configure(inside(machine, config_of(step, triggers=(NOTIFY,)))).returncode == 0
    done = json.loads(machine.run("collector", "run", "--now", "--json").stdout)
    assert machine.configure(inside(machine, CONFIG)).returncode == 0
    output = (machine.archive / Path(done["path"]).name / "tried" / "output.txt").read_text().splitlines()
    assert [line for line, refusal in zip(output, REFUSED.values(), strict=True) if refusal not in line] == []


@pytest.mark.root
def test_service_sees_what_is_mounted_below_dev_shm(machine: Machine) -> None:
    """Its /dev is its own, but a segment on a tmpfs that somebody mounts there, before or later, must not be lost."""
    earlier, later = (f"/dev/shm/{when}-{os.getpid()}" for when in ("earlier", "later"))
    machine.run("sh", "-c", f"mkdir {earlier} {later}; mount -t tmpfs none {earlier}")
    try:
        assert machine.run("systemctl", "restart", "collector.service").returncode == 0
        machine.run("mount", "-t", "tmpfs", "none", later)
        pid = machine.show("collector.service", "MainPID")
        points = {line.split()[4] for line in machine.run("cat", f"/proc/{pid}/mountinfo").stdout.splitlines()}
        assert {earlier, later} <= points
    finally:
        machine.run("sh", "-c", f"umount {earlier} {later}; rmdir {earlier} {later}")


@pytest.mark.root
def test_service_imports_nothing_from_its_surroundings(machine: Machine, planted: Path) -> None:
    """PYTHONPATH, PYTHONSTARTUP, the user's site-packages and the current directory are not the program's."""
    assert machine.show("collector.service", "ActiveState") == "active"
    assert not (planted / "mark").exists()


REPORTS = ["notify", "--systemd", "UNIT=engine.service", "--socket", "/nonexistent"]


@pytest.mark.parametrize(
    ("arguments", "ends"),
    [(["--version"], 0), (["config", "check"], 0), (["run", "--now", "--only", "memory"], 0), (REPORTS, 69)],
    ids=["version", "config", "run", "notify"],
)
@pytest.mark.parametrize("shell", [[], ["bash", "--posix"]], ids=["sh", "bash"])
def test_command_runs_nothing_from_its_surroundings(
    tmp_path: Path, arguments: list[str], ends: int, shell: list[str]
) -> None:
    """`sudo -E collector`, called where somebody has planted modules and programs, through a link as in /usr/bin."""
    mark = tmp_path / "mark"
    environment = os.environ | plant(tmp_path) | {"SERVICE_RESULT": "signal", "INVOCATION_ID": "1"}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "collector").symlink_to(Path(sys.executable).parent / "collector")
    for name in ("readlink", "python3", "systemctl"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {mark}\n")
        (tmp_path / name).chmod(0o755)
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BASH_FUNC_readlink%%": f"() {{ : >{mark}; }}"}
    where = ["--archive", str(tmp_path / "archive")] if arguments[0] == "run" else []
    command = [*shell, str(tmp_path / "bin" / "collector"), *arguments, *where]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode in {ends, 3}, done.stderr  # 3: as nobody, some files of /proc are missing
    assert not mark.exists()


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize(
    ("unit", "drop_in", "tenths"),
    [
        ("collector.service", None, 35),
        ("collector.service", "without-sys-admin.conf", 31),
        ("collector-notify@.service", None, 9),
        ("collector-core-pattern.service", None, 32),
        ("collector-core-pattern-restore.service", None, 32),
    ],
)
def test_units_are_no_more_exposed_than_they_were(tmp_path: Path, unit: str, drop_in: str | None, tenths: int) -> None:
    """What `systemd-analyze security` makes of the shipped units; other versions weigh differently."""
    directory = tmp_path / "etc/systemd/system"
    (directory / f"{unit}.d").mkdir(parents=True)
    shutil.copy(UNITS / unit, directory / unit)
    if drop_in is not None:
        shutil.copy(UNITS / "examples" / drop_in, directory / f"{unit}.d")
    command = ["systemd-analyze", "security", "--offline=yes", f"--root={tmp_path}", f"--threshold={tenths}", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-100:] + done.stderr


# What comes of it without each of the unit's capabilities; the table in docs/operations.md says it in words.
LINKS = "cwd exe io ns/ personality root stack syscall timers"
WITHOUT: dict[str, dict[str, str]] = {
    "CAP_SYS_PTRACE": {
        "live: network": "truncated",
        "live: network, unread": "ns/",
        "live: process, unread": LINKS,
        "live: segments": "truncated",
    },
    "CAP_DAC_READ_SEARCH": {
        "crash: core": "failed",
        "crash: files": "truncated",
        "crash: files, unread": "secret",
        "crash: segments": "truncated",
        "live: files": "truncated",
        "live: files, unread": "secret",
        "live: network": "truncated",
        "live: process, unread": "auxv environ fd io ksm_stat ns personality stack syscall",
        "live: segments": "truncated",
        "live: segments, unread": "fd",
    },
    "CAP_LEASE": {"exit file that is being written": "read"},
    "CAP_SYSLOG": {"crash: kernel_log": "failed", "live: kernel_log": "failed", "trigger kernel": "degraded"},
    "CAP_NET_ADMIN": {"buffer for exits": "False"},
    "CAP_SYS_NICE": {"nice of workers": "0"},
    "CAP_IPC_LOCK": {"memory locks": "False"},
    "CAP_SYS_RESOURCE": {},
    "CAP_SYS_ADMIN": {"live: process, unread": "stack"},
    "CAP_CHECKPOINT_RESTORE": {},
}
WITH = {"CAP_DAC_OVERRIDE": {"exit files in users": "removed"}, "CAP_FOWNER": {}, "CAP_KILL": {}}


COMPLETE = {"ok", "not_applicable", "watching", "removed", "stay", "waited for", "True", "-15", "0"}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.needs(PROC_CONNECTOR)
def test_each_capability_is_needed_as_the_table_says(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Taken from the running service one by one, and what it does not have given to it: what changes is the table."""
    shipped = set(shipped_capabilities())
    assert set(WITHOUT) == shipped

    def seen(names: set[str], right: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """Observe until it is *right*, at most three times: on a busy machine a read may take too long."""
        for _ in range(3):
            found = observe(daemon_factory(CONFIG, start=False), crasher, names)
            if right(found):
                break
        return found

    def changed(found: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in found.items() if value != everything.get(key)}

    with sysctl("net/core/rmem_max", 212_992):  # the kernel's own default
        everything = seen(shipped, lambda found: set(found.values()) <= COMPLETE)
        assert set(everything.values()) <= COMPLETE, everything
        assert [everything[f"exit files in {name}"] for name in EXITS] == ["removed", "removed", "stay"]
        # Where SYS_ADMIN is, CHECKPOINT_RESTORE is not needed.
        both = {"CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"}
        unnamed = {"live: process, unread": "stack", "live: segments": "truncated"}
        for names, expected in [*(({name}, loss) for name, loss in (WITHOUT | WITH).items()), (both, unnamed)]:
            found = seen(shipped ^ names, lambda found, expected=expected: changed(found) == expected)
            assert changed(found) == expected, names


def test_page_names_each_capability_of_the_unit() -> None:
    """The table of docs/operations.md has a row for each, and for those that were tried and left out."""
    page = (UNITS.parent / "docs/operations.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(CAP_\w+)` \|", page, re.MULTILINE))
    assert rows == {*shipped_capabilities(), *WITH}


LISTENS = """
setpriv --reuid=65534 --clear-groups /usr/bin/python3 -c '
import socket, time
one = socket.create_server(("127.0.0.1", 0))
time.sleep(99)' >/dev/null &
while ! ls -l /proc/$!/fd | grep -q socket; do sleep 0.05; done
collector run --now --json --pid $!
kill $!
"""


@pytest.mark.root
def test_service_asks_a_users_sockets_in_its_sandbox(machine: Machine) -> None:
    """By a duplicate of the descriptor, which the unit's filter of system calls must allow."""
    done = machine.run("sh", "-c", LISTENS)
    lines = (machine.archive / Path(json.loads(done.stdout)["path"]).name / "network/sockets.jsonl").read_text()
    assert [json.loads(line)["state"] for line in lines.splitlines()] == ["LISTEN"]
