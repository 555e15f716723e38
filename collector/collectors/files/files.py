"""Files that match globs: logs, configuration, what an application leaves behind."""

from __future__ import annotations

import enum
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import filterfalse
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from collector.collectors.base import Context, names_of
from collector.collectors.files.globs import Found, expand, open_found
from collector.host.files import Host, body, describe
from collector.host.read_errors import ReadErrors
from collector.host.subordinates import owners
from collector.host.tree import is_literal
from collector.model.allotment import fitting
from collector.model.artifact import Artifact, Body, Bulk, Footprint, Truncated
from collector.model.errors import StepError
from collector.model.owners import Owners, by_owner
from collector.model.pressure import StepClass
from collector.model.shares import FairChoice
from collector.model.text import escape_name, jsonl
from collector.model.units import Bytes

# The copy engine maps whole pages, so a tail begins at a page boundary.
ALIGN = 4096


class End(enum.StrEnum):
    """Which end of a file is kept if it exceeds the limit."""

    HEAD = "head"
    TAIL = "tail"


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``files.jsonl``: a file, its artifact, and the offset of the first byte kept."""

    path: str
    artifact: str
    size_bytes: int
    offset: int


@dataclass(slots=True, kw_only=True)
class FilesChoice:
    """
    What is copied, in this order, and what is not.

    Args:
        owners: Whose files are whose.
        chosen: What is copied.
        beyond_total: What does not fit into ``max_total``.
        left_out: How many files of each owner are beyond ``max_total`` or ``max_files``.
        unmatched: The globs that match nothing.
        gaps: How many directories of each owner were not searched to their end.
    """

    owners: Owners
    chosen: list[Found] = field(default_factory=list)
    beyond_total: list[Found] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unmatched: list[str] = field(default_factory=list)
    gaps: Counter[str] = field(default_factory=Counter)

    def owner(self, file: Found) -> str:
        return self.owners.of(file.status.st_uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """
    Copy files: those named without a wildcard, then the newest, in fair shares for their owners.

    Args:
        paths: Globs, absolute; ``**`` stands for any number of directories.
        max_bytes: Maximum bytes per file.
        end: Which end of a longer file is kept.
        max_total: Maximum bytes in total.
        max_files: Maximum number of files.
    """

    name: ClassVar[str] = "files"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=4 << 20, timeout_s=60.0)
    paths: tuple[str, ...]
    max_bytes: Bytes = Bytes(8 << 20)
    end: End = End.TAIL
    max_total: Bytes = Bytes(256 << 20)
    max_files: int = 1000

    def __post_init__(self) -> None:
        for path in self.paths:
            parts = path.split("/")
            if not path.startswith("/") or {".", ".."} & set(parts) or not parts[-1]:
                raise ValueError(f"{path!r} is not an absolute path of a file without . and ..")
            if parts[1] in {"proc", "sys"}:
                raise ValueError(f"{path!r}: for /proc and /sys use the collectors `proc_files` and `process`")

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield ``files.jsonl``, then the files as ``files/0001`` and so on, then what was not read.

        Raises:
            Truncated: At the end, if a glob matched nothing, or a file could not be read.
        """
        unread = ReadErrors()
        choice = self.choose(ctx.host, unread)
        rows = [self._row(number, file) for number, file in enumerate(choice.chosen, start=1)]
        left_out = choice.left_out
        cut = f"{left_out.total()} files are beyond max_total or max_files ({by_owner(left_out)})" if left_out else None
        yield Artifact(path=PurePosixPath("files.jsonl"), body=jsonl(rows, cut=cut), media="jsonl")
        lost: list[str] = []
        ahead = sum(map(self._cost, rows))
        for file, row in zip(choice.chosen, rows, strict=True):
            ahead -= self._cost(row)
            try:
                yield self._artifact(ctx.host, file, row, ahead)
            except (OSError, StepError) as exc:
                lost.append(file.path)
                unread.add(file.path, exc)
        for file in choice.beyond_total:
            unread.add(file.path, "beyond max_total", choice.owner(file))
        yield from unread.artifacts()
        reasons = []
        if choice.unmatched:
            reasons.append(f"no file matches {names_of(choice.unmatched)}")
        if choice.gaps:
            reasons.append(f"not all names were compared with paths ({by_owner(choice.gaps)} directories)")
        if lost:
            reasons.append(f"not read: {names_of(lost)}")
        if reasons:
            raise Truncated("; ".join(reasons))

    def choose(self, host: Host, unread: ReadErrors) -> FilesChoice:
        """Search, and choose what is copied: what is named literally first, then the newest, fairly by owner."""
        choice = FilesChoice(owners=owners(host))
        literal: dict[str, Found] = {}
        for path in filter(is_literal, self.paths):
            literal |= {file.path: file for file in self._matching(host, path, unread, choice)}
        newest: FairChoice[Found] = FairChoice(
            max(0, self.max_files - len(literal)), rank=lambda file: file.status.st_mtime_ns
        )
        for path in filterfalse(is_literal, self.paths):
            for file in self._matching(host, path, unread, choice):
                if file.path not in literal:
                    newest.add(file, choice.owner(file))
        choice.left_out = newest.left_out
        left = self._fit(list(literal.values())[: self.max_files], int(self.max_total), choice)
        self._fit(list({file.path: file for file in newest.chosen()}.values()), left, choice)
        return choice

    def _fit(self, files: list[Found], left: int, choice: FilesChoice) -> int:
        """Add the files to the choice, as far as there is space for them; return what is left of it."""
        wanted = [(choice.owner(file), min(file.status.st_size, int(self.max_bytes))) for file in files]
        for file, (owner, size), fits in zip(files, wanted, fitting(wanted, left), strict=True):
            if fits:
                choice.chosen.append(file)
                left -= size
            else:
                choice.beyond_total.append(file)
                choice.left_out[owner] += 1
        return left

    def _matching(self, host: Host, glob: str, unread: ReadErrors, choice: FilesChoice) -> Iterator[Found]:
        matched = False
        for file in expand(host, glob, unread, owners=choice.owners, gaps=choice.gaps):
            matched = True
            yield file
        if not matched:
            choice.unmatched.append(glob)

    def _row(self, number: int, found: Found) -> FileRow:
        size = found.status.st_size
        offset = 0
        if self.end is End.TAIL and size > self.max_bytes:
            offset = -(-(size - self.max_bytes) // ALIGN) * ALIGN
        return FileRow(path=escape_name(found.path), artifact=f"files/{number:04}", size_bytes=size, offset=offset)

    def _cost(self, row: FileRow) -> int:
        """Return the bytes that are copied of a file."""
        return min(row.size_bytes - row.offset, int(self.max_bytes))

    def _artifact(self, host: Host, found: Found, row: FileRow, ahead_bytes: int) -> Artifact:
        fd = open_found(host, found)
        status, source = os.fstat(fd), describe(fd, row.path)
        content: Body = Bulk(fd=fd, limit_bytes=self.max_bytes, offset=row.offset, ahead_bytes=ahead_bytes)
        if status.st_size == 0:  # it may still have contents (FUSE, the kernel's own file systems)
            content = body(fd, limit=self.max_bytes)
        return Artifact(
            path=PurePosixPath(row.artifact),
            body=content,
            source=source,
            truncated="longer than max_bytes" if status.st_size > self.max_bytes else "",
        )
