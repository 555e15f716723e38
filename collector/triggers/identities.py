"""
Which process a PID was: learnt while it lived, because ``/proc/PID`` is gone when its exit is reported.

Only ``stat`` and, if a rule needs them, the ``exe`` link and ``cgroup`` are read: none of them takes the process's
mmap_lock, which a wedged process may hold indefinitely.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace

from collector.host.files import Host, OpenFd, read_at
from collector.host.own_procfs import Procfs, batches
from collector.host.procfs import read_stat
from collector.model.bounded import put_newest

# Processes remembered. A machine with more loses the oldest; an entry is about 400 bytes.
MAX_IDENTITIES = 16_384
ANY_PARENT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """What is known of a process; *exe* and *unit* only if a rule needs them."""

    comm: str
    start_ticks: int | None
    parent: int
    uid: int | None
    exe: str | None = None
    unit: str | None = None


class Identities:
    """The identities of processes by PID, a bounded table."""

    def __init__(self, host: Host, *, exe: bool, unit: bool) -> None:
        self._host = host
        self._exe, self._unit = exe, unit
        self._table: dict[int, ProcessIdentity | None] = {}

    def learn_all(self) -> None:
        """Learn every living process: once, at the start, even through the ordinary ``/proc``."""
        with closing(batches(self._host)) as found:
            for procfs, listed in found:
                for pid in listed:
                    self.learn(pid, procfs=procfs)

    def learn(self, pid: int, *, procfs: Procfs | None = None) -> None:
        """Learn a process, by default one that called exec; one that is gone already is entered as unknown."""
        put_newest(self._table, pid, self._read(pid, procfs=procfs), MAX_IDENTITIES)

    def rename(self, pid: int, comm: bytes) -> None:
        """Enter a new name; if the process is gone already, that is all that is known of it."""
        known = self._table.get(pid) or self._read(pid)
        if known is None:
            known = ProcessIdentity(comm="", start_ticks=None, parent=ANY_PARENT, uid=None)
        put_newest(self._table, pid, replace(known, comm=os.fsdecode(comm)), MAX_IDENTITIES)

    def dumping(self, pid: int, parent: int) -> ProcessIdentity | None:
        """Return the identity of *pid*, which is about to dump core and usually still lives."""
        seen = self._read(pid)
        return seen if seen is not None else self._remembered(pid, parent)

    def take(self, pid: int, parent: int) -> ProcessIdentity | None:
        """Return the identity of *pid*, a child of *parent*, and forget it. A zombie still has its name."""
        seen, known = self._read(pid, zombie=True), self._remembered(pid, parent)
        self._table.pop(pid, None)
        if seen is None or known is None:
            return seen or known
        return replace(seen, exe=known.exe, unit=known.unit)

    def _remembered(self, pid: int, parent: int) -> ProcessIdentity | None:
        """
        Return the table's entry for *pid*.

        An entry counts only if the parent is the same, or if init adopted the process; otherwise it belongs to an
        earlier process with that PID. A process without an entry was forked without an exec, and looks like its parent.
        """
        if pid in self._table:
            known = self._table[pid]
            return known if known is None or known.parent in {parent, ANY_PARENT} or parent == 1 else None
        origin = self._table.get(parent)
        return replace(origin, start_ticks=None, parent=parent) if origin is not None else None

    def _read(self, pid: int, *, zombie: bool = False, procfs: Procfs | None = None) -> ProcessIdentity | None:
        """Read ``/proc/PID``, in *procfs* if given, through one descriptor of that directory."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            with procfs.process(pid) if procfs else OpenFd(self._host.open(f"/proc/{pid}", flags)) as dir_fd:
                stat = read_stat(dir_fd)
                return ProcessIdentity(
                    comm=os.fsdecode(stat.comm),
                    start_ticks=stat.start_ticks,
                    parent=stat.ppid,
                    uid=os.fstat(dir_fd).st_uid,
                    exe=os.readlink("exe", dir_fd=dir_fd) if self._exe and not zombie else None,
                    unit=_unit(read_at(dir_fd, "cgroup", 4096)) if self._unit and not zombie else None,
                )
        except (OSError, ValueError):
            return None


def _unit(cgroup: bytes) -> str | None:
    """Return the innermost systemd unit in a ``/proc/PID/cgroup``, or the cgroup's path if there is none."""
    for line in cgroup.decode(errors="replace").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0" or controllers == "name=systemd":
            units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            if units or path != "/":
                return units[-1] if units else path
    return None
