"""The core of an archived incident."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from collector.archive import directory
from collector.archive.read import ArchiveReader
from collector.collectors.core.image import CoreImage
from collector.collectors.core.summary import CoreSummary
from collector.host.core_memory import FileMemory
from collector.host.core_stream import head_of
from collector.host.corefile import core_reader
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest
from collector.report.unpacked_core import unpacked

MAX_SUMMARY_BYTES = 1 << 20
MAX_ROWS_BYTES = 32 << 20
ELF = b"\x7fELF"


class ArchivedThread(msgspec.Struct, frozen=True, kw_only=True):
    """What backtraces need of a line of ``threads.jsonl``; *frames* are absent in incidents of earlier releases."""

    tid: int
    registers: dict[str, str] = {}
    frames: tuple[str, ...] = ()
    frames_end: str = ""


@dataclass(frozen=True, kw_only=True)
class ArchivedCore:
    """
    What an incident holds of a core.

    Args:
        summary: Its ``core.json``.
        path: Of the core as it is archived; empty if it was not kept.
        fd: Of the core, open; -1 if it was not kept.
        rows: Returns its threads as they were archived.
    """

    summary: CoreSummary
    path: str
    fd: int
    rows: Callable[[], tuple[ArchivedThread, ...]]

    @property
    def is_plain(self) -> bool:
        """Whether the archived file itself is an ELF core."""
        return self.fd >= 0 and os.pread(self.fd, len(ELF), 0) == ELF

    @contextmanager
    def plain(self) -> Iterator[int]:
        """
        Yield a descriptor of the core, unpacked if it is compressed.

        Raises:
            ArchiveError: If it was not kept, or there is no room to unpack it.
            CoreError: If it cannot be read.
        """
        if self.fd < 0:
            raise ArchiveError(self.summary.problem or "the core itself was not kept")
        if self.is_plain:
            yield self.fd
            return
        with unpacked(self.fd) as fd:
            yield fd

    @property
    def missing(self) -> str:
        """What of the memory is not there, in words; empty if nothing is known to be."""
        kinds = {
            "notes": "the core was kept without memory: one frame of each thread",
            "stacks": "the core was kept as its stacks: no heap",
        }
        cut = "the core was cut off: part of its memory is missing" if self.summary.cut_off else ""
        return "; ".join(filter(None, (kinds.get(self.summary.content, ""), cut)))


@contextmanager
def archived_core(archive: ArchiveReader, incident: str, manifest: Manifest) -> Iterator[ArchivedCore]:
    """
    Open the core of a sealed incident.

    Raises:
        ArchiveError: If it has none.
    """
    paths = [artifact.path for step in manifest.steps if step.collector == "core" for artifact in step.artifacts]
    folder = next((path.rpartition("/")[0] for path in paths if path.endswith("/core.json")), None)
    if folder is None:
        raise ArchiveError(f"incident {incident} has no core", hint=f"`collector show {incident}` says why")
    with archive.incident(incident) as fd, ExitStack() as stack:
        summary = _summary(fd, folder, has_core=f"{folder}/core" in paths)

        def rows() -> tuple[ArchivedThread, ...]:
            return _rows(fd, f"{folder}/threads.jsonl") if f"{folder}/threads.jsonl" in paths else ()

        core_fd, path = -1, ""
        if f"{folder}/core" in paths:
            core_fd = stack.enter_context(directory.opened_file(f"{folder}/core", fd))
            path = f"{archive.path}/{incident}/{folder}/core"
        yield ArchivedCore(summary=summary, path=path, fd=core_fd, rows=rows)


def image_of(fd: int) -> CoreImage:
    """Return what is in the plain core *fd*; raise `CoreError` if it is not one."""
    head = head_of(core_reader(fd))
    return CoreImage(head=head, memory=FileMemory(fd, head.segments()))


def _summary(fd: int, folder: str, *, has_core: bool) -> CoreSummary:
    """Return what describes the core; if that is damaged, what the core itself is enough for."""
    try:
        return _decoded(fd, f"{folder}/core.json")
    except ArchiveError:
        if not has_core:
            raise
        with directory.opened_file(f"{folder}/core", fd) as core:
            return CoreSummary(path="", size_bytes=os.fstat(core).st_size)


def _decoded(fd: int, path: str) -> CoreSummary:
    try:
        return decode(directory.read(path, fd, limit=MAX_SUMMARY_BYTES), CoreSummary)
    except (MalformedError, OSError) as exc:
        raise ArchiveError(f"{path} cannot be read: {exc}") from exc


def _rows(fd: int, path: str) -> tuple[ArchivedThread, ...]:
    """Return what can be read of it."""
    found: list[ArchivedThread] = []
    with contextlib.suppress(ArchiveError, OSError, MalformedError):
        for line in directory.read(path, fd, limit=MAX_ROWS_BYTES).splitlines():
            found.append(decode(line, ArchivedThread))
    return tuple(found)
