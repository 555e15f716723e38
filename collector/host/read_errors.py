"""What could not be read: recorded, never lost."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec

from collector.model.artifact import Artifact
from collector.model.text import escape_name, jsonl

MAX_ROWS = 1000
MEANINGS = {
    errno.EACCES: "not allowed: run as root",
    errno.EPERM: "not allowed: run as root",
    errno.ENOENT: "not there",
    errno.ESRCH: "the process ended",
    errno.ELOOP: "a symlink, which is never followed",
    errno.ENOTDIR: "a symlink or a file where a directory was expected",
    errno.ENXIO: "a socket or a device without a driver",
}


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """One source that gave nothing: *error* is the kernel's name for it, empty where it is our own rule."""

    path: str
    error: str = ""
    meaning: str


class Unreads:
    """Collects what could not be read, at most `MAX_ROWS` of it, for a step's last artifact."""

    def __init__(self) -> None:
        self._rows: list[Unread] = []
        self._more = 0

    def __len__(self) -> int:
        return len(self._rows) + self._more

    def add(self, path: str, why: Exception | str) -> None:
        """Record that *path* could not be read, because of an error or a rule."""
        if len(self._rows) == MAX_ROWS:
            self._more += 1
            return
        error, meaning = "", str(why)
        if isinstance(why, OSError) and why.errno is not None:
            error = errno.errorcode.get(why.errno, str(why.errno))
            meaning = MEANINGS.get(why.errno, why.strerror or "")
        self._rows.append(Unread(path=escape_name(path), error=error, meaning=meaning))

    def artifacts(self) -> Iterator[Artifact]:
        """Yield ``unread.jsonl``, or nothing if all was read."""
        if self._rows:
            yield Artifact(path=PurePosixPath("unread.jsonl"), body=jsonl(self._lines()), media="jsonl")

    def _lines(self) -> Iterator[Unread]:
        yield from self._rows
        if self._more:
            yield Unread(path="", meaning=f"and {self._more} more")
