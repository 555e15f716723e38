"""What counts as a segment among the files that a process has mapped or open, and what it is called."""

from __future__ import annotations

import os
import re

import msgspec

from collector.collectors.shm.listing import ROOT

DELETED = " (deleted)"
BELOW = os.fsencode(ROOT) + b"/"

NAMELESS = re.compile(rb"/(memfd:.*|dev/zero|SYSV[0-9a-f]{8}) \(deleted\)", re.DOTALL)
"""
Shared memory that has a name in no directory, as the kernel shows it. Source: mm/memfd.c, shmem_zero_setup() in
mm/shmem.c, newseg() in ipc/shm.c.
"""

ANONYMOUS = "anonymous shared memory"
"""What `mmap(MAP_SHARED | MAP_ANONYMOUS)` is called here; the kernel shows it as ``/dev/zero``."""


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file that a process has, or had, mapped, or has open.

    *path* is as the kernel shows it: ``x (deleted)`` may be a removed ``x``, or a file of that name. *device* and
    *inode* are known from ``/proc/PID`` only, of a live process or in an Apport report; *link* is what leads to the
    file there, if it lives.
    """

    path: bytes
    device: int | None = None
    inode: int | None = None
    link: str = ""


def segment_name(path: bytes, *, nameless: bool) -> str | None:
    """
    Return a file's name below ``/dev/shm``, or what stands for it if it is *nameless* shared memory and that is wanted.

    ``None`` if it is neither.
    """
    if path.startswith(BELOW):
        name = path.removeprefix(BELOW)
        parts = name.split(b"/")
        return None if b"" in parts or b".." in parts or b"." in parts else os.fsdecode(name)
    match = NAMELESS.fullmatch(path) if nameless else None
    if match is None:
        return None
    return ANONYMOUS if match[1] == b"dev/zero" else os.fsdecode(match[1])


def shown_path(path: bytes, name: str) -> str:
    """Return what to show as the source of a segment: its path, or its *name* alone if it has none."""
    return f"{ROOT}/{name}" if path.startswith(BELOW) else name
