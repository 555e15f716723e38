"""The programs and libraries of a core: where each was, and which build it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from collector.collectors.core.auxv import AT_PHDR, AT_SYSINFO_EHDR
from collector.collectors.core.image import CoreImage
from collector.collectors.core.module import DELETED, VDSO
from collector.host.core_segments import PF_X
from collector.host.elfcore import MappedFile
from collector.model.text import escape
from collector.report.elf_image import MAGIC, PAGE_BYTES, build_id

MAX_MODULES = 400
"""Two descriptors of each are opened at once."""

VDSO_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreModule:
    """
    A module.

    Args:
        start: Of its first mapping.
        end: Of its last.
        path: Where it was mapped from; without the kernel's mark that it was deleted: a copy may be there again.
        build_id: In hexadecimal; empty if it has none, or the core does not hold it.
        first_page: Of the module; empty if the core does not hold it.
    """

    start: int
    end: int
    path: bytes
    build_id: str
    first_page: bytes

    @property
    def name(self) -> str:
        """Its file name, escaped."""
        return escape(self.path.rpartition(b"/")[2])


def core_modules(image: CoreImage) -> list[CoreModule]:
    """Return the modules by address, the kernel's own last; at most `MAX_MODULES`."""
    found: list[CoreModule] = []
    for mappings in _groups(image.files):
        if len(found) == MAX_MODULES:
            break
        if _is_module(image, mappings) and (not found or found[-1].end <= mappings[0].start):
            found.append(_module(image, mappings[0].start, mappings[-1].end, mappings[0].path))
    vdso_at = image.auxv.get(AT_SYSINFO_EHDR, 0)
    segment = image.segments.find(vdso_at) if vdso_at else None
    if segment is not None and segment.memory_bytes <= VDSO_BYTES:
        found.append(_module(image, vdso_at, segment.end, VDSO))
    return found


def executable(image: CoreImage, modules: list[CoreModule]) -> CoreModule | None:
    """Return the program itself: the module that holds the program headers which the kernel gave the process."""
    at = image.auxv.get(AT_PHDR, 0)
    return next((module for module in modules if module.start <= at < module.end), None)


def _groups(files: Sequence[MappedFile]) -> Iterator[list[MappedFile]]:
    """Yield the mappings of each module: one of a file's beginning, then others of the same file."""
    group: list[MappedFile] = []
    for file in files:
        if group and file.offset and file.path == group[0].path:
            group.append(file)
            continue
        if group:
            yield group
        group = [] if file.offset else [file]
    if group:
        yield group


def _is_module(image: CoreImage, mappings: list[MappedFile]) -> bool:
    head = image.memory.read(mappings[0].start, len(MAGIC))
    if head:
        return head == MAGIC
    segments = (image.segments.find(mapping.start) for mapping in mappings)
    return any(segment is not None and segment.flags & PF_X for segment in segments)


def _module(image: CoreImage, start: int, end: int, path: bytes) -> CoreModule:
    read = partial(_read, image, start)
    return CoreModule(
        start=start, end=end, path=path.removesuffix(DELETED), build_id=build_id(read), first_page=read(0, PAGE_BYTES)
    )


def _read(image: CoreImage, start: int, offset: int, size: int) -> bytes:
    return image.memory.read(start + offset, size)
