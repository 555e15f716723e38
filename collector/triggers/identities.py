"""Which process a PID was: learnt while it lived, because ``/proc/PID`` is gone when its exit is reported."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace

from collector.host.files import Host
from collector.host.own_procfs import batches
from collector.host.process_identity import identify_task
from collector.model.identity import Identity
from collector.model.owners import Owners
from collector.model.shares import FairTable

# Processes remembered. A machine with more loses the oldest of the user who has most; an entry is about 400 bytes.
MAX_IDENTITIES = 16_384
ANY_PARENT = 0


class Identities:
    """The identities of processes by PID, a bounded table in fair shares for their *owners*."""

    def __init__(self, host: Host, owners: Owners) -> None:
        self._host = host
        self._table: FairTable[int, Identity | None] = FairTable(MAX_IDENTITIES)
        self._owners = owners

    def learn_all(self) -> None:
        """Learn every living process: once, at the start, even through the ordinary ``/proc``."""
        with closing(batches(self._host)) as found:
            for procfs, listed in found:
                for pid in listed:
                    self._put(pid, identify_task(self._host, pid, procfs=procfs))

    def learn(self, pid: int) -> None:
        """Learn a process that called exec; one that is gone already is entered as unknown."""
        self._put(pid, identify_task(self._host, pid))

    def rename(self, pid: int, comm: bytes) -> None:
        """Enter a new name; if the process is gone already, that is all that is known of it."""
        known = self._table.get(pid) or identify_task(self._host, pid)
        self._put(pid, replace(known or _unknown(pid), comm=os.fsdecode(comm)))

    def become(self, pid: int, uid: int) -> None:
        """Enter a new real uid, of a process that may be gone: many start as root, and are a user's when they die."""
        known = self._table.get(pid) or identify_task(self._host, pid) or _unknown(pid)
        self._put(pid, replace(known, uid=uid))

    def dumping(self, pid: int, thread: int, parent: int) -> tuple[Identity | None, str | None]:
        """
        Return the identity of *pid*, of which *thread* is about to dump core, and the name of that thread.

        It usually still lives; whoever lives on under that number without dying is somebody else.
        """
        seen, known = identify_task(self._host, pid, image=True), self._remembered(pid, parent)
        if seen is None:
            return known, None
        crashed = seen if thread == pid else identify_task(self._host, thread)
        if crashed is not None and crashed.tgid == pid and (seen.dying or crashed.dying):
            return _completed(seen, known), crashed.comm
        same = known is not None and known.start_ticks == seen.start_ticks
        return (_completed(seen, known) if same else known), None

    def take(self, pid: int, parent: int) -> Identity | None:
        """Return the identity of *pid*, a child of *parent*, and forget it. A zombie still has its name."""
        seen, known = identify_task(self._host, pid), self._remembered(pid, parent)
        self._table.pop(pid)
        return known if seen is None or not seen.dying else _completed(seen, known)

    def _remembered(self, pid: int, parent: int) -> Identity | None:
        """
        Return the table's entry for *pid*.

        An entry counts only if the parent is the same, or if init adopted the process; otherwise it belongs to an
        earlier process with that PID. A process without an entry was forked without an exec, and looks like its parent.
        """
        origin = self._table.get(parent)
        if pid in self._table:
            known = self._table.get(pid)
            if known is None:  # it called exec and was gone: nothing but the real uid is as its parent's
                return replace(_unknown(pid), uid=origin.uid) if origin is not None else None
            return known if known.parent in {parent, ANY_PARENT} or parent == 1 else None
        if origin is None:
            return None
        return replace(origin, pid=pid, tgid=pid, start_ticks=None, inner_pid=None, parent=parent)

    def _put(self, pid: int, who: Identity | None) -> None:
        self._table.put(pid, who, self._owners.of(None if who is None else who.uid))


def _unknown(pid: int) -> Identity:
    return Identity(pid=pid, tgid=pid, comm="", start_ticks=None, parent=ANY_PARENT, uid=None)


def _completed(seen: Identity, known: Identity | None) -> Identity:
    """Return *seen* with what is gone once its memory is: executable and namespaces."""
    if known is None or known.start_ticks not in {None, seen.start_ticks}:
        return seen
    unit = seen if seen.unit else known
    return replace(
        seen,
        exe=seen.exe or known.exe,
        unit=unit.unit,
        system_unit=unit.system_unit,
        cgroup=max(seen.cgroup, known.cgroup, key=_hierarchies),
        mounts=seen.mounts or known.mounts,
    )


def _hierarchies(cgroup: str | None) -> int:
    """Return of how many hierarchies a cgroup is known: of a zombie only that of v2, v1 has moved it to the root."""
    return cgroup.count("\n") if cgroup else 0
