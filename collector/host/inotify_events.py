"""
What inotify(7) tells of a directory. Apart from `inotify`, whose pyinotify imports logging, subprocess and asyncore: a
tenth of what a check of the configuration takes, which watches nothing.
"""

from __future__ import annotations

from typing import NamedTuple

# Source: include/uapi/linux/inotify.h
CLOSE_WRITE, MOVED_TO, CREATE = 0x8, 0x80, 0x100
DELETE_SELF, MOVE_SELF, UNMOUNT, IGNORED = 0x400, 0x800, 0x2000, 0x8000
OVERFLOW = 0x4000
ONLYDIR, ISDIR = 0x0100_0000, 0x4000_0000
GONE = DELETE_SELF | MOVE_SELF | UNMOUNT | IGNORED
"""The watched directory is no longer at its path."""
DIRECTORY_MASK = CLOSE_WRITE | MOVED_TO | CREATE | DELETE_SELF | MOVE_SELF | ONLYDIR


class InotifyEvent(NamedTuple):
    """One event; *name* is relative to the watched directory, empty for the directory itself."""

    wd: int
    mask: int
    name: str
