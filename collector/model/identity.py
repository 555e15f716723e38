"""
Whose crash it is: when `/proc/PID` may be taken for the crashed process, and when two markers are one crash.

Pure. A PID is a claim until it is confirmed: numbers are reused, are different ones in other PID namespaces, and may be
a thread's; and a marker's text may be an attacker's. "Unknown" agrees with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from collector.model.marker import CGROUP, SYSTEM_UNIT, Marker, MarkerKind, ProcessRef
from collector.model.text import escape_name, printable

COMM_LENGTH = 15  # TASK_COMM_LEN without the terminating zero: some sources know no more of a name
# PF_EXITING, PF_DUMPCORE, PF_SIGNALED. Source: include/linux/sched.h
DYING_FLAGS = 0x4 | 0x200 | 0x400

SAME_CRASH_S = 30.0
"""Markers of one PID are one crash within this time, where no start time tells and nothing else agrees."""

# A core of 100 GB written at 100 MB/s arrives this long after the kernel announced it.
LONGEST_DUMP_S = 1000.0

HOST_MOUNTS = "the collector's own"
# Kernel events that are about a process even where they do not name it.
ABOUT_A_PROCESS = frozenset({"segfault", "core_lost", "oom_kill"})
INVOCATION = ("MONITOR_INVOCATION_ID", "INVOCATION_ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """
    What ``/proc`` shows of a task that is there.

    *pid* is its number here and *inner_pid* its thread group's in its own PID namespace; *tgid* differs from *pid* for
    a thread. *start_ticks* is in clock ticks since boot, as field 22 of ``stat``. *uid* is the real one: the effective
    uid of a set-id program is its owner's, who need not have started it. *mounts* is its mount namespace: only in
    `HOST_MOUNTS` do the names of its files mean the same here. *image* stands for the addresses of its program in
    memory, which are random and which its core has, too. *core_limit* is in bytes, or ``unlimited``. *unit* is the
    innermost one, which may be of a user's own manager; *system_unit* is the system's that it is within. *cgroup* has
    its cgroups with their inodes, as the collector `cgroup` reads them.
    """

    pid: int
    tgid: int
    comm: str
    start_ticks: int | None
    parent: int
    uid: int | None
    dying: bool = False
    inner_pid: int | None = None
    exe: str | None = None
    unit: str | None = None
    system_unit: str | None = None
    cgroup: str | None = None
    mounts: str | None = None
    image: str | None = None
    core_limit: str | None = None


def is_the_dead(seen: Identity, *, uid: int | None, comm: str | None = None) -> bool:
    """
    Return whether *seen* may be the process whose end is reported: it is dying, and nothing contradicts it.

    Whoever lives on under the number of a process whose core is complete is somebody else.
    """
    return seen.dying and uid in {None, seen.uid} and comm in {None, seen.comm}


def is_the_named(seen: Identity, *, comm: str | None, at_ticks: int) -> bool:
    """
    Return whether *seen* is the task that the kernel named *at_ticks*, in clock ticks since boot.

    A number has one holder at a time: whoever has it now and had started by then had it then.
    """
    started = seen.start_ticks is not None and seen.start_ticks <= at_ticks
    return comm in {None, escape_name(seen.comm)} and (started or (seen.dying and comm is not None))


def is_the_reported(seen: Identity, marker: Marker, *, over: bool) -> bool:
    """
    Return whether *seen* is the process that somebody who may name it reports in *marker*.

    Args:
        seen: Who has the PID now.
        marker: With a start time, only that counts; else what it says of the process must be so.
        over: Its end is reported. Then it must be dying, or have both the executable and the uid that are reported.
    """
    if marker.process is not None and marker.process.start_time_ticks is not None:
        return marker.process.start_time_ticks == seen.start_ticks
    if marker.uid not in {None, seen.uid} or marker.exe not in {None, seen.exe, printable(seen.exe or "")}:
        return False
    if marker.comm is not None and marker.comm[:COMM_LENGTH] != printable(seen.comm):
        return False
    return not over or seen.dying or (marker.uid is not None and marker.exe is not None)


def with_identity(marker: Marker, who: Identity) -> Marker:
    """Return *marker*, about the process *who*: what was seen of it outweighs what was said of it."""
    comm = printable(who.comm)
    seen = {
        "mount_namespace": who.mounts,
        "core_limit": who.core_limit,
        SYSTEM_UNIT: who.system_unit,
        CGROUP: who.cgroup,
    }
    return msgspec.structs.replace(
        marker,
        process=ProcessRef(pid=who.pid, start_time_ticks=who.start_ticks),
        image=who.image or marker.image,
        inner_pid=who.inner_pid if who.inner_pid is not None else marker.inner_pid,
        doubtful=False,
        comm=comm or marker.comm,
        thread_comm=marker.comm if marker.comm not in {None, comm} else marker.thread_comm,
        exe=printable(who.exe) if who.exe else marker.exe,
        uid=who.uid if who.uid is not None else marker.uid,
        unit=printable(who.unit) if who.unit else marker.unit,
        attributes=marker.attributes | {key: value for key, value in seen.items() if value is not None},
    )


def is_about_a_process(marker: Marker) -> bool:
    """Return whether a marker witnesses the crash of a process, known or not, rather than an event of the machine."""
    if marker.process is not None or marker.core is not None or marker.thread is not None:
        return True
    if marker.kind is MarkerKind.KERNEL_LOG:
        return marker.attributes.get("event") in ABOUT_A_PROCESS
    return marker.kind is not MarkerKind.PRESSURE


def is_certain(marker: Marker) -> bool:
    """Return whether a marker says for certain that one process crashed: a core, or a PID that its speaker may name."""
    return marker.core is not None or (marker.process is not None and not marker.doubtful)


class Agreement(NamedTuple):
    """What two markers agree on, in words, how much that proves, and how long they may be apart in seconds."""

    strength: int
    reason: str
    longest_s: float = LONGEST_DUMP_S


SAME_IMAGE = Agreement(2, "the same addresses in memory")


def may_be_a_thread(marker: Marker) -> bool:
    """Return whether the kernel named a task that was gone, so that number and name may be those of a thread."""
    return marker.kind is MarkerKind.KERNEL_LOG and marker.doubtful


def is_a_claim(marker: Marker) -> bool:
    """Return whether it names a process that its speaker may not name, except to that process's own user."""
    return marker.doubtful and not may_be_a_thread(marker)


def tells_image(marker: Marker) -> bool:
    """Return whether its image is what the kernel showed, or is in a core that root owns."""
    return marker.core is None or marker.core.uid == 0


def agreement(one: Marker, other: Marker, *, apart_s: float = 0.0) -> Agreement | None:
    """
    Return what makes two markers one crash; ``None`` if nothing does.

    It must be something that no third party can choose. *apart_s* is how long one was noticed after the other.
    """
    if _cannot_be_one(one, other):
        return None
    found = SAME_IMAGE if _same_image(one, other) else _shared(one, other)
    return found if found is not None and apart_s <= found.longest_s else None


def contradiction(one: Marker, other: Marker) -> str | None:
    """Return why two markers that nothing joins cannot be the same crash either; ``None`` if they could."""
    return _cannot_be_one(one, other) or _differ(one, other)


def names(marker: Marker) -> frozenset[str]:
    """Return the names, of at most 15 characters, that a marker knows its process or thread by."""
    exe = marker.exe.rpartition("/")[2][:COMM_LENGTH] if marker.exe else None
    return frozenset(name[:COMM_LENGTH] for name in (marker.comm, marker.thread_comm, exe) if name)


def tasks(marker: Marker) -> frozenset[int]:
    """Return the numbers, in the collector's PID namespace, of the process and the thread that a marker names."""
    pid = marker.process.pid if marker.process is not None else None
    return frozenset(number for number in (pid, marker.thread) if number is not None)


def invocation(marker: Marker) -> str | None:
    """Return systemd's invocation id of the unit; a unit that is started again gets another."""
    return next((marker.attributes[key] for key in INVOCATION if marker.attributes.get(key)), None)


def _cannot_be_one(one: Marker, other: Marker) -> str | None:
    """Return a contradiction that outweighs every agreement."""
    if _other_process(one, other) or _other_process(other, one):
        return "another process"
    if one.image is not None and other.image is not None and one.image != other.image:
        return "another process"
    if _same_image(one, other):
        return None  # a copy of the core, and whoever writes one for others may not know whose it is
    for what, mine, theirs in (("core", _file(one), _file(other)), ("uid", one.uid, other.uid)):
        if mine is not None and theirs is not None and mine != theirs:
            return f"another {what}"
    return None


def _same_image(one: Marker, other: Marker) -> bool:
    """
    Return whether two markers are about the same process, as its memory shows; forked siblings differ in the PID.

    A child knows the addresses of the daemon that forked it: an ordinary user's core is believed about himself only.
    """
    if one.image is None or one.inner_pid is None or (one.image, one.inner_pid) != (other.image, other.inner_pid):
        return False
    return one.uid == other.uid or (tells_image(one) and tells_image(other))


def _file(marker: Marker) -> tuple[int, int, int] | None:
    """Return what tells a core from others; a handler may write each one to the same inode."""
    core = marker.core
    return (core.device, core.inode, core.mtime_ns) if core is not None else None


def _differ(one: Marker, other: Marker) -> str | None:
    """Return a contradiction that counts where no number of a process is shared: sources may word these differently."""
    for what, mine, theirs in (
        ("unit", one.unit, other.unit),
        ("run of the unit", invocation(one), invocation(other)),
        ("signal", one.signal, other.signal),
        ("thread", one.thread, other.thread),
        ("exit status", one.exit_status, other.exit_status),
    ):
        if mine is not None and theirs is not None and mine != theirs:
            return f"another {what}"
    if (one.signal, other.exit_status).count(None) == 0 or (other.signal, one.exit_status).count(None) == 0:
        return "it ended otherwise"
    mine_names, their_names = names(one), names(other)
    if may_be_a_thread(one) or may_be_a_thread(other) or not mine_names or not their_names or mine_names & their_names:
        return None
    return "another name"


def _shared(one: Marker, other: Marker) -> Agreement | None:
    """Return the best of what two markers agree on."""
    same_name = bool(names(one) & names(other))
    certain = not (is_a_claim(one) or is_a_claim(other))
    # Of a claim that nobody confirmed, only the user's own crash can come true.
    if not certain and (one.uid is None or one.uid != other.uid):
        return None
    shared = tasks(one) & tasks(other)
    if one.process is not None and one.process == other.process and one.process.start_time_ticks is not None:
        return Agreement(3, f"process {one.process.pid}, by its start time")
    if shared and (certain or _differ(one, other) is None):
        longest_s = LONGEST_DUMP_S if same_name else SAME_CRASH_S
        return Agreement(1, f"the crash of process {min(shared)}", longest_s)
    # A unit can be started again at once, but not with the same invocation id.
    if (run := invocation(one)) is not None and run == invocation(other) and _differ(one, other) is None:
        return Agreement(0, f"invocation {run} of a unit")
    return None


def _other_process(one: Marker, other: Marker) -> bool:
    """Return whether *other* names another process than *one*, or one that started after *one* was noticed."""
    mine, theirs = one.process, other.process
    if mine is None or theirs is None or may_be_a_thread(one) or may_be_a_thread(other):
        return False
    if mine.pid != theirs.pid:
        # A number that is only claimed may be of another PID namespace.
        return not (is_a_claim(one) or is_a_claim(other)) or not _same_image(one, other)
    ticks, their_ticks = mine.start_time_ticks, theirs.start_time_ticks
    if ticks is not None and their_ticks is not None:
        return ticks != their_ticks
    return one.noticed_ticks is not None and their_ticks is not None and their_ticks > one.noticed_ticks
