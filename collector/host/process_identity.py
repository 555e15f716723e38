"""
Who a task is, read from its ``/proc/PID`` while it is there.

Only files that do not take the process's mmap_lock, which a wedged process may hold indefinitely: ``stat``, ``status``,
``cgroup`` and links. Source: fs/proc/array.c, fs/proc/base.c (Linux 6.18).
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace

import xxhash

from collector.host.cgroup_membership import remember
from collector.host.files import Host, OpenFd, read_at
from collector.host.living_thread import TGID, whole_process
from collector.host.own_procfs import Procfs
from collector.host.process_stat import DEAD_STATES, Stat, read_stat
from collector.model.identity import DYING_FLAGS, HOST_MOUNTS, Identity

REAL_UID = re.compile(rb"\nUid:\t([0-9]+)")
UNITS = (".service", ".scope")
INNER_PID = re.compile(rb"\nNStgid:(?:\t[0-9]+)*\t([0-9]+)\n")
CORE_LIMIT = re.compile(rb"^Max core file size +([a-z0-9]+) ", re.MULTILINE)


def identify_task(host: Host, number: int, *, procfs: Procfs | None = None, image: bool = False) -> Identity | None:
    """
    Return who has that number, of a process or of a thread; ``None`` if nobody has.

    Of a zombie, the executable and the namespaces are unknown. All files are read through one descriptor of the
    task's directory, so that they are those of one task.

    Args:
        image: Read the auxiliary vector, too: for a process that is about to die, and so cannot be within an exec,
            whose lock this takes.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        with procfs.process(number) if procfs else OpenFd(host.open(f"/proc/{number}", flags)) as dir_fd:
            stat = read_stat(dir_fd)
            whole = whole_process(dir_fd, stat)
            who = _read(host, number, dir_fd, stat, whole)
            return replace(who, image=image_of(_perhaps(dir_fd, whole + "auxv"))) if image else who
    except (OSError, ValueError):
        return None


def thread_group(host: Host, seen: Identity, *, image: bool = False) -> Identity | None:
    """Return the process that a task belongs to: itself, unless it is a thread."""
    if seen.tgid == seen.pid and not image:
        return seen
    return identify_task(host, seen.tgid, image=image)


def image_of(auxiliary_vector: bytes) -> str | None:
    """
    Return what stands for a program's addresses in memory, the same from ``/proc/PID/auxv`` and from a core's NT_AUXV.

    It holds the addresses of program, interpreter, vDSO and stack, which are random for each exec.
    """
    return xxhash.xxh3_64_hexdigest(auxiliary_vector) if auxiliary_vector else None


def _perhaps(dir_fd: int, name: str) -> bytes:
    """Return a file that is at most 4 KiB long; nothing if it cannot be read."""
    try:
        return read_at(dir_fd, name, 4096)
    except OSError:
        return b""


def is_dying(stat: Stat) -> bool:
    """Return whether a task is dumping core, exiting or dead; before its memory is gone or after."""
    return stat.state in DEAD_STATES or bool(stat.flags & DYING_FLAGS)


def _read(host: Host, number: int, dir_fd: int, stat: Stat, whole: str) -> Identity:
    status = read_at(dir_fd, "status", 4096)
    cgroup = read_at(dir_fd, "cgroup", 4096)
    return Identity(
        pid=number,
        tgid=_number(TGID.search(status)) or number,
        comm=sys.intern(os.fsdecode(stat.comm)),
        start_ticks=stat.start_ticks,
        parent=stat.ppid,
        uid=real_uid(status),
        dying=is_dying(stat),
        inner_pid=_number(INNER_PID.search(status)),
        exe=_link(dir_fd, whole + "exe"),
        unit=unit_of(cgroup),
        system_unit=system_unit_of(cgroup),
        cgroup=remember(host, cgroup),
        mounts=_mounts(host, dir_fd, whole),
        core_limit=limit[1].decode() if (limit := CORE_LIMIT.search(_perhaps(dir_fd, "limits"))) else None,
    )


def real_uid(status: bytes) -> int | None:
    """Return the real uid in a ``/proc/PID/status``."""
    return _number(REAL_UID.search(status))


def _number(found: re.Match[bytes] | None) -> int | None:
    return int(found[1]) if found else None


def _link(dir_fd: int, name: str) -> str | None:
    """
    Return where a link leads, as text; ``None`` for kernel threads, zombies, or if that is not permitted.

    What it leads to is not looked at: on a dead NFS server or somebody's FUSE that would hang.
    """
    try:
        return sys.intern(os.readlink(name, dir_fd=dir_fd))
    except OSError:
        return None


def _mounts(host: Host, dir_fd: int, whole: str) -> str | None:
    """Return the task's mount namespace."""
    found = _link(dir_fd, whole + "ns/mnt")
    return HOST_MOUNTS if found is not None and found == _own_mounts(host) else found


@functools.lru_cache(maxsize=1)
def _own_mounts(host: Host) -> str | None:
    try:
        return os.readlink(host.path("/proc/self/ns/mnt"))
    except OSError:
        return None


def unit_of(cgroup: bytes) -> str | None:
    """Return the innermost systemd unit in a ``/proc/PID/cgroup``, or the cgroup's path if there is none."""
    for path in _systemd_paths(cgroup):
        units = [part for part in path.split("/") if part.endswith(UNITS)]
        if units or path.strip("/."):  # "/..": outside of this cgroup namespace
            return sys.intern(units[-1] if units else path)
    return None


def system_unit_of(cgroup: bytes) -> str | None:
    """
    Return the unit of the system's manager that a process is within; ``None`` for one of a user's session.

    Below a unit, whoever it is delegated to may create any name: the outermost one counts.
    Source: systemd's CGROUP_DELEGATION.md
    """
    for path in _systemd_paths(cgroup):
        parts = path.split("/")[1:]
        unit = next((number for number, part in enumerate(parts) if not part.endswith(".slice")), len(parts))
        if parts[:1] != ["user.slice"] and unit < len(parts) and parts[unit].endswith(UNITS):
            return sys.intern(parts[unit])
    return None


def _systemd_paths(cgroup: bytes) -> Iterator[str]:
    """Yield the process's cgroups in the hierarchies that systemd keeps; other line separators are part of a name."""
    for line in cgroup.decode(errors="replace").split("\n"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path and (hierarchy == "0" or controllers == "name=systemd"):
            yield path
