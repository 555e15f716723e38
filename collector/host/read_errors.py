"""A record of what could not be read, for ``unread.jsonl``."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec

from collector.model.artifact import Artifact
from collector.model.owners import ROOT, by_owner
from collector.model.shares import FairChoice
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
    """Collects what could not be read, for a step's last artifact: at most `MAX_ROWS` rows, in fair shares."""

    def __init__(self) -> None:
        self._rows: FairChoice[ReadErrorRow] = FairChoice(MAX_ROWS, rank=lambda _: 0.0)

    def __len__(self) -> int:
        return len(self._rows) + self._rows.left_out.total()

    def add(self, path: str, why: Exception | str, owner: str = ROOT) -> None:
        """Record that *path* was not read, because of an error or a rule; *owner* is whose it is."""
        error, meaning = "", str(why)
        if isinstance(why, OSError) and why.errno is not None:
            error = errno.errorcode.get(why.errno, str(why.errno))
            meaning = MEANINGS.get(why.errno, why.strerror or "")
        self._rows.add(ReadErrorRow(path=escape_name(path), error=error, meaning=meaning), owner)

    def artifacts(self) -> Iterator[Artifact]:
        """Yield ``unread.jsonl`` if there are any rows."""
        if rows := self._rows.chosen():
            if self._rows.left_out:
                rows.append(
                    ReadErrorRow(
                        path="", meaning=f"and {self._rows.left_out.total()} more ({by_owner(self._rows.left_out)})"
                    )
                )
            yield Artifact(path=PurePosixPath("unread.jsonl"), body=jsonl(rows), media="jsonl")
