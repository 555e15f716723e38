"""A record of what could not be read, for ``unread.jsonl``."""

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


class ReadErrorRow(msgspec.Struct, frozen=True, kw_only=True):
    """A source that was not read; *error* is an errno's name, empty if one of our own rules was the reason."""

    path: str
    error: str = ""
    meaning: str


class ReadErrors:
    """Collects what could not be read, at most `MAX_ROWS` rows, for a step's last artifact."""

    def __init__(self) -> None:
        self._rows: list[ReadErrorRow] = []
        self._more = 0

    def __len__(self) -> int:
        return len(self._rows) + self._more

    def add(self, path: str, why: Exception | str) -> None:
        """Record that *path* was not read, because of an error or a rule."""
        if len(self._rows) == MAX_ROWS:
            self._more += 1
            return
        error, meaning = "", str(why)
        if isinstance(why, OSError) and why.errno is not None:
            error = errno.errorcode.get(why.errno, str(why.errno))
            meaning = MEANINGS.get(why.errno, why.strerror or "")
        self._rows.append(ReadErrorRow(path=escape_name(path), error=error, meaning=meaning))

    def artifacts(self) -> Iterator[Artifact]:
        """Yield ``unread.jsonl`` if there are any rows."""
        if self._rows:
            more = [ReadErrorRow(path="", meaning=f"and {self._more} more")] if self._more else []
            yield Artifact(path=PurePosixPath("unread.jsonl"), body=jsonl([*self._rows, *more]), media="jsonl")
