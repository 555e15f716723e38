"""What tests need from the machine, and how they change its settings."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

NEEDS_ROOT = "needs root"
CORE_PATTERN_LOCK = "/tmp/core_pattern.lock"  # the benchmarks take it, too
PROC_CONNECTOR = "proc connector"
NETLINK_CONNECTOR = 11  # include/uapi/linux/netlink.h
CAP_SYS_ADMIN = 21  # include/uapi/linux/capability.h


def missing(name: str) -> str | None:
    """
    Return why something that a test needs is not available; ``None`` if it is.

    Args:
        name: ``root``, `PROC_CONNECTOR`, a program, or the path of a device or file that must be readable.
    """
    if name == "root":
        return _missing_root()
    if name == PROC_CONNECTOR:
        return _missing_proc_connector()
    if "/" not in name:
        return None if shutil.which(name) else f"needs {name}: .ci/run names the packages"
    try:
        os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as exc:
        return f"needs {name}: {exc.strerror}"
    return None


def _missing_root() -> str | None:
    """In a container, uid 0 may lack the privileges."""
    if os.geteuid() != 0:
        return NEEDS_ROOT
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        return f"{NEEDS_ROOT}: this is a user namespace"
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if not int(status["CapEff"], 16) >> CAP_SYS_ADMIN & 1:
        return f"{NEEDS_ROOT} with CAP_SYS_ADMIN"
    if not os.access("/proc/sys/kernel/core_pattern", os.W_OK):
        return f"{NEEDS_ROOT} that may change core_pattern"
    return None


def _missing_proc_connector() -> str | None:
    """It answers in the initial network namespace only."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR) as sock:
            sock.connect((0, 0))
            sock.send(bytes(16))
    except OSError as exc:
        return f"needs the {PROC_CONNECTOR}: {exc.strerror}"
    return None


def need(*names: str) -> None:
    """Skip the running test unless all of *names* are available; see `missing`."""
    for name in names:
        if (reason := missing(name)) is not None:
            pytest.skip(reason)


@contextmanager
def sysctl(name: str, value: object) -> Iterator[None]:
    """Set ``/proc/sys/NAME`` during the block, then restore it; one test on this machine at a time."""
    need("root")
    path = Path("/proc/sys", name)
    with open(CORE_PATTERN_LOCK if name == "kernel/core_pattern" else path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = path.read_text()
        try:
            path.write_text(str(value))
            yield
        finally:
            path.write_text(before)


def core_pattern(pattern: str | Path) -> AbstractContextManager[None]:
    """Set the kernel's core_pattern during the block."""
    return sysctl("kernel/core_pattern", pattern)


def every_fault_logged() -> AbstractContextManager[None]:
    """Make the kernel log every segfault during the block, instead of ten in five seconds."""
    return sysctl("kernel/printk_ratelimit", 0)


def compiled(source: Path, directory: Path, *options: str) -> Path:
    """Compile a C program into *directory* with gcc; return it."""
    need("gcc")
    program = directory / source.stem
    subprocess.run(["gcc", "-O1", *options, "-o", str(program), str(source)], check=True)
    return program


@contextmanager
def tmpfs(path: Path, *, mode: str = "1777", size: str = "64m") -> Iterator[Path]:
    """Mount a tmpfs on *path* during the block."""
    need("root")
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "collector-test", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
