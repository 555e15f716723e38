"""The cgroup of a crash and its parents, each held open by its directory."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

from collector.host.cgroup_membership import Hierarchy, Membership
from collector.host.files import DIRECTORY_FLAGS, Host

ROOT_SIDE = 4
"""Of a chain with more levels than are read, this many next to the root are; the others are the deepest."""
REMOVED = " (deleted)"
"""What the kernel appends to the path of a zombie's cgroup that is gone (v2)."""
GONE = "gone"
REPLACED = "another cgroup by now, of a later run"
ELSEWHERE = "not below the mount point"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """
    One cgroup.

    Args:
        hierarchy: Where it is.
        number: 0 for the crash's own, 1 for its parent.
        path: From the hierarchy's root.
        place: Whose it is of the marker's processes, 0 for the first one.
        fd: Its directory: once that cgroup is removed, no other's files can be read through it.
    """

    hierarchy: Hierarchy
    number: int
    path: str
    place: int
    fd: int

    @property
    def directory(self) -> str:
        """The directory of its artifacts."""
        return f"{directory_of(self.place)}/{label(self.hierarchy)}/{self.number}".lstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """
    The levels of one hierarchy, the deepest first.

    Args:
        member: Whose chain it is.
        hierarchy: Where it is; ``None`` if it is not mounted here.
        levels: What is there and is read.
        missing: Why level 0 is not among them; empty if it is.
        same: Whether its inode is the one that is known.
        depth: How many levels lead to it, with the root.
    """

    member: Membership
    hierarchy: Hierarchy
    levels: tuple[Level, ...]
    missing: str = ""
    same: bool = False
    depth: int = 0


def directory_of(place: int) -> str:
    """Return where the artifacts of a process are, if the marker names several."""
    return f"also/{place}" if place else ""


def label(hierarchy: Hierarchy) -> str:
    """Return what stands for a hierarchy in the paths of artifacts: ``v2``, ``v1/memory``, ``v1/cpu-cpuacct``."""
    names = (name.removeprefix("name=") for name in sorted(hierarchy.controllers))
    return f"v1/{'-'.join(names)}" if hierarchy.controllers else "v2"


def open_chain(
    host: Host, hierarchy: Hierarchy, member: Membership, *, limit: int, place: int, stack: ExitStack
) -> Chain:
    """
    Open the cgroup and its parents, at most *limit*.

    Raises:
        OSError: If not even the mount point can be opened.
    """
    below = hierarchy.relative(member.path)
    names = below.split("/") if below else []
    fds, missing = _descend(host, hierarchy.point, names, limit=limit, stack=stack)
    if below is None:
        missing, fds = ELSEWHERE, []  # the root here is somebody else's parent
    elif member.path.endswith(REMOVED) and not member.id:
        missing = GONE
        fds = fds[: len(names)]
    same = not missing and (not names or os.fstat(fds[-1][1]).st_ino == member.id)
    if not missing and member.id and not same:
        missing = REPLACED
        fds.pop()
    levels = tuple(
        Level(
            hierarchy=hierarchy,
            number=len(names) - depth,
            path=_path(hierarchy.root, names[:depth]),
            place=place,
            fd=fd,
        )
        for depth, fd in reversed(fds)
    )
    return Chain(member=member, hierarchy=hierarchy, levels=levels, missing=missing, same=same, depth=len(names) + 1)


def _descend(
    host: Host, point: str, names: list[str], *, limit: int, stack: ExitStack
) -> tuple[list[tuple[int, int]], str]:
    """Return depth and descriptor of the levels that are kept, the root first, and why the deepest is missing."""
    kept = [(0, os.open(host.path(point), DIRECTORY_FLAGS))]
    missing, root_side = "", min(ROOT_SIDE, limit - 1)
    try:
        for depth, name in enumerate(names, 1):
            kept.append((depth, os.open(name, DIRECTORY_FLAGS, dir_fd=kept[-1][1])))
            if len(kept) > limit:
                os.close(kept.pop(root_side)[1])
    except OSError as exc:
        missing = GONE if isinstance(exc, FileNotFoundError) else str(exc.strerror)
    for _, fd in kept:
        stack.callback(os.close, fd)
    return kept, missing


def _path(root: str, names: list[str]) -> str:
    return "/".join([root.rstrip("/"), *names]) or "/"
