"""
Which cgroups a process is in, and where these are mounted: v1, v2, and both side by side.

Source: cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from collector.host.files import Host
from collector.model.text import escape_name, unescape_name

MOUNTINFO_BYTES = 1 << 20
CGROUP_BYTES = 65_536
"""Of ``/proc/PID/cgroup``: a path is at most 4 KiB long, and v1 has about a dozen."""

SYSTEMD = "name=systemd"
READ_CONTROLLERS = frozenset({"memory", "cpu", "cpuacct", "cpuset", "blkio", "pids", "hugetlb", SYSTEMD})
REMEMBERED_CHARACTERS = 2048
"""Of a container of Kubernetes on v1, the longest that is usual, 1,400."""

_INODE = re.compile("[0-9]{1,20}")  # at most 64 bits
_OCTAL = re.compile(r"\\([0-7]{3})")


class Hierarchy(NamedTuple):
    """One mounted hierarchy: its controllers of v1, none for v2; where it is, and which of its cgroups is there."""

    controllers: frozenset[str]
    point: str
    root: str

    def relative(self, path: str) -> str | None:
        """Return *path* as it is below the mount point, without a slash in front; ``None`` if it is not there."""
        inside = path == self.root or path.startswith(self.root.rstrip("/") + "/")
        below = path[len(self.root.rstrip("/")) :].strip("/")
        return below if inside and ".." not in below.split("/") else None

    def source(self, path: str, name: str) -> str:
        """Return where the file *name* of the cgroup *path* is."""
        return f"{self.point}/{self.relative(path) or ''}/{name}".replace("//", "/")


class Membership(NamedTuple):
    """
    A process's cgroup in one hierarchy.

    Args:
        controllers: Of v1, as ``/proc/PID/cgroup`` has them; empty for v2.
        path: From the hierarchy's root; bytes that are not UTF-8 as surrogates.
        id: Its inode, which no later cgroup of that name has; 0 if it is not known.
    """

    controllers: str
    path: str
    id: int = 0


def hierarchies(host: Host) -> tuple[Hierarchy, ...]:
    """Return the mounted hierarchies whose files are worth reading, v2 first; of several mounts the first one."""
    found: dict[frozenset[str], Hierarchy] = {}
    for line in os.fsdecode(host.read("/proc/self/mountinfo", limit=MOUNTINFO_BYTES)).split("\n"):
        head, _, tail = line.partition(" - ")
        kind, fields = tail.partition(" ")[0], head.split(" ")
        if kind not in {"cgroup", "cgroup2"} or len(fields) < 5:
            continue
        options = tail.rsplit(" ", 1)[-1].split(",") if kind == "cgroup" else []
        controllers = frozenset(options) & READ_CONTROLLERS
        if controllers or kind == "cgroup2":
            found.setdefault(controllers, Hierarchy(controllers, _unquoted(fields[4]), _unquoted(fields[3])))
    return tuple(sorted(found.values(), key=lambda one: (bool(one.controllers), sorted(one.controllers))))


def memberships(text: bytes) -> Iterator[Membership]:
    """Yield what a ``/proc/PID/cgroup`` says."""
    for line in os.fsdecode(text).split("\n"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/"):
            yield Membership(controllers, path)


def hierarchy_of(member: Membership, mounted: tuple[Hierarchy, ...]) -> Hierarchy | None:
    wanted = frozenset(filter(None, member.controllers.split(","))) & READ_CONTROLLERS
    if member.controllers and not wanted:
        return None
    return next((one for one in mounted if one.controllers == wanted), None)


def remember(host: Host, text: bytes) -> str | None:
    """
    Return what a marker says of the cgroups in a ``/proc/PID/cgroup``, read now: one line ``CONTROLLERS:ID:PATH`` each.

    Those at a hierarchy's root are left out. ``None`` if nothing is left, or it would be too long.
    """
    try:
        mounted = _known_hierarchies(host)
    except OSError:
        return None
    lines = []
    for member in memberships(text[: text.rfind(b"\n") + 1]):  # a line that was cut off would be another's path
        if member.path != "/" and (hierarchy := hierarchy_of(member, mounted)) is not None:
            lines.append(f"{member.controllers}:{_id(host, hierarchy, member)}:{escape_name(member.path)}\n")
    known = "".join(lines)
    return sys.intern(known) if 0 < len(known) <= REMEMBERED_CHARACTERS else None


def recall(known: str) -> tuple[Membership, ...]:
    """Return the memberships that `remember` wrote; lines that are not of its form, or were cut off, are left out."""
    parts = [line.split(":", 2) for line in known[: known.rfind("\n") + 1].split("\n")]
    return tuple(
        Membership(part[0], unescape_name(part[2]), int(part[1]))
        for part in parts
        if len(part) == 3 and _INODE.fullmatch(part[1]) and part[2].startswith("/")
    )


@functools.lru_cache(maxsize=1)
def _known_hierarchies(host: Host) -> tuple[Hierarchy, ...]:
    """Read once: a process is remembered at each exec, and cgroups are mounted at boot."""
    return hierarchies(host)


def memory_cgroup(host: Host, escaped_path: str, *, identify: bool) -> str:
    """Return what `remember` would of the memory cgroup of that path, with its inode if it is to be identified now."""
    try:
        mounted = _known_hierarchies(host)
    except OSError:
        mounted = ()
    v1 = next((one for one in mounted if "memory" in one.controllers), None)
    member = Membership("memory" if v1 else "", unescape_name(escaped_path))
    hierarchy = v1 or hierarchy_of(member, mounted)
    inode = _id(host, hierarchy, member) if identify and hierarchy is not None else 0
    return f"{member.controllers}:{inode}:{escaped_path}\n"


def _id(host: Host, hierarchy: Hierarchy, member: Membership) -> int:
    below = hierarchy.relative(member.path)
    try:
        return os.stat(host.path(f"{hierarchy.point}/{below}")).st_ino if below is not None else 0
    except OSError:  # it was removed meanwhile
        return 0


def _unquoted(field: str) -> str:
    """Undo the octal escapes of blanks and backslashes in a mountinfo."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)
