"""Files that match globs: logs, configuration, what an application leaves behind."""

from __future__ import annotations

import enum
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from collector.collectors.base import Context, names_of
from collector.collectors.files.globs import Found, expand, open_found
from collector.host.files import Host, body, describe
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, Body, Bulk, Footprint, Truncated
from collector.model.errors import StepError
from collector.model.pressure import StepClass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """
    Copy files, the newest first.

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
        unmatched: list[str] = []
        found, chosen = self.choose(ctx.host, unread, unmatched)
        rows = [self._row(number, file) for number, file in enumerate(chosen, start=1)]
        left_out = len(found) - len(chosen)
        cut = f"{left_out} or more files are beyond max_total or max_files" if left_out else None
        yield Artifact(path=PurePosixPath("files.jsonl"), body=jsonl(rows, cut=cut), media="jsonl")
        lost: list[str] = []
        for file, row in zip(chosen, rows, strict=True):
            try:
                yield self._artifact(ctx.host, file, row)
            except (OSError, StepError) as exc:
                lost.append(file.path)
                unread.add(file.path, exc)
        for path in found.keys() - {file.path for file in chosen}:
            unread.add(path, "beyond max_total or max_files")
        yield from unread.artifacts()
        reasons = []
        if unmatched:
            reasons.append(f"no file matches {names_of(unmatched)}")
        if lost:
            reasons.append(f"not read: {names_of(lost)}")
        if reasons:
            raise Truncated("; ".join(reasons))

    def choose(self, host: Host, unread: ReadErrors, unmatched: list[str]) -> tuple[dict[str, Found], list[Found]]:
        """
        Return the newest files by path, at most one more than may be copied, and those of them that fit.

        *unmatched* receives the globs that match nothing.
        """

        def matching(glob: str) -> Iterator[Found]:
            matched = False
            for file in expand(host, glob, unread):
                matched = True
                yield file
            if not matched:
                unmatched.append(glob)

        files = (file for glob in self.paths for file in matching(glob))
        # Not all of them, so that memory is bounded.
        newest = heapq.nlargest(self.max_files + 1, files, key=lambda file: file.status.st_mtime_ns)
        found = {file.path: file for file in newest}
        return found, list(self._fitting(found))

    def _fitting(self, found: dict[str, Found]) -> Iterator[Found]:
        """Yield those that fit; a file that does not fit is skipped, and smaller ones after it may still fit."""
        left = int(self.max_total)
        for file in islice(found.values(), self.max_files):
            size = min(file.status.st_size, self.max_bytes)
            if size <= left:
                left -= size
                yield file

    def _row(self, number: int, found: Found) -> FileRow:
        size = found.status.st_size
        offset = 0
        if self.end is End.TAIL and size > self.max_bytes:
            offset = -(-(size - self.max_bytes) // ALIGN) * ALIGN
        return FileRow(path=escape_name(found.path), artifact=f"files/{number:04}", size_bytes=size, offset=offset)

    def _artifact(self, host: Host, found: Found, row: FileRow) -> Artifact:
        fd = open_found(host, found)
        status, source = os.fstat(fd), describe(fd, row.path)
        content: Body = Bulk(fd=fd, limit_bytes=self.max_bytes, offset=row.offset)
        if status.st_size == 0:  # it may still have contents (FUSE, the kernel's own file systems)
            content = body(fd, limit=self.max_bytes)
        return Artifact(
            path=PurePosixPath(row.artifact),
            body=content,
            source=source,
            truncated=status.st_size > self.max_bytes,
        )
