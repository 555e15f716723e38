"""
Who a PID was: learnt while the process lived, because ``/proc/PID`` is gone when its exit is told.

Of another process the supervisor reads ``stat`` and, where a rule asks, the ``exe`` link and ``cgroup``.
None of them takes the process's mmap_lock, which a wedged process may hold for ever.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace

from collector.host.files import Host, read_at
from collector.host.own_procfs import Procfs, batches
from collector.host.procfs import read_stat

# Processes remembered. A machine with more loses the oldest; an entry is about 400 bytes.
MAX_IDENTITIES = 16_384
ANY_PARENT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What is known of a process; *exe* and *unit* only where rules ask for them."""

    comm: str
    start_ticks: int | None
    parent: int
    uid: int | None
    exe: str | None = None
    unit: str | None = None


class Identities:
    """A bounded table by PID."""

    def __init__(self, host: Host, *, exe: bool, unit: bool) -> None:
        self._host = host
        self._exe, self._unit = exe, unit
        self._table: dict[int, Identity | None] = {}

    def learn_all(self) -> None:
        """Enter every process that lives now; where no own procfs can be mounted, whatever that costs: it is once."""
        with closing(batches(self._host)) as found:
            for procfs, listed in found:
                for pid in listed:
                    self._enter(pid, self._look(pid, procfs=procfs))

    def learn(self, pid: int) -> Identity | None:
        """Look at a process that called exec and enter it; one that is gone already is entered as unknown."""
        identity = self._look(pid)
        self._enter(pid, identity)
        return identity

    def rename(self, pid: int, comm: bytes) -> None:
        """Enter a new name; of a process that is gone already the name is all there is."""
        known = self._table.get(pid) or self._look(pid)
        if known is None:
            known = Identity(comm="", start_ticks=None, parent=ANY_PARENT, uid=None)
        self._enter(pid, replace(known, comm=os.fsdecode(comm)))

    def dumping(self, pid: int, parent: int) -> Identity | None:
        """Return who *pid* is, which is about to dump core and lives on while it does, if that takes long enough."""
        seen = self._look(pid)
        return seen if seen is not None else self._remembered(pid, parent)

    def take(self, pid: int, parent: int) -> Identity | None:
        """Return who *pid*, a child of *parent*, was, and forget it. A zombie still tells its name."""
        seen, known = self._look(pid, zombie=True), self._remembered(pid, parent)
        self._table.pop(pid, None)
        if seen is None or known is None:
            return seen or known
        return replace(seen, exe=known.exe, unit=known.unit)

    def _remembered(self, pid: int, parent: int) -> Identity | None:
        """
        Return what the table knows of *pid*.

        An entry counts only if the parent is the same, or if init adopted it: else it is a predecessor
        with that PID. What has no entry was forked without an exec, and looks like its parent.
        """
        if pid in self._table:
            known = self._table[pid]
            return known if known is None or known.parent in {parent, ANY_PARENT} or parent == 1 else None
        origin = self._table.get(parent)
        return replace(origin, start_ticks=None, parent=parent) if origin is not None else None

    def _enter(self, pid: int, identity: Identity | None) -> None:
        """Enter as the newest; the oldest goes."""
        self._table.pop(pid, None)
        self._table[pid] = identity
        if len(self._table) > MAX_IDENTITIES:
            del self._table[next(iter(self._table))]

    def _look(self, pid: int, *, zombie: bool = False, procfs: Procfs | None = None) -> Identity | None:
        """Read what ``/proc/PID``, of *procfs* if it is given, shows, through one descriptor of that directory."""
        try:
            path = self._host.path(f"/proc/{pid}")
            dir_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if procfs is None else procfs.open(pid)
        except OSError:
            return None
        try:
            stat = read_stat(dir_fd)
            return Identity(
                comm=os.fsdecode(stat.comm),
                start_ticks=stat.start_ticks,
                parent=stat.ppid,
                uid=os.fstat(dir_fd).st_uid,
                exe=os.readlink("exe", dir_fd=dir_fd) if self._exe and not zombie else None,
                unit=_unit(read_at(dir_fd, "cgroup", 4096)) if self._unit and not zombie else None,
            )
        except (OSError, ValueError):
            return None
        finally:
            os.close(dir_fd)


def _unit(cgroup: bytes) -> str | None:
    """Return the innermost systemd unit of a ``/proc/PID/cgroup``, or the path where none is in it."""
    for line in cgroup.decode(errors="replace").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0" or controllers == "name=systemd":
            units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            if units or path != "/":
                return units[-1] if units else path
    return None
