"""The image of a core file; what is needed of the memory of a compressed one is picked from it in one pass."""

from __future__ import annotations

from collections.abc import Iterator

from collector.collectors.core.auxv import AT_EXECFN, AT_SYSINFO_EHDR
from collector.collectors.core.image import CoreImage
from collector.collectors.core.stacks import RED_ZONE_BYTES
from collector.host.core_memory import NO_MEMORY, FileMemory, PickedMemory
from collector.host.core_stream import head_of
from collector.host.corefile import core_reader
from collector.host.elfcore import CoreError, CoreReader
from collector.host.memory import PAGE_BYTES, page
from collector.host.unpack import LOOKAHEAD_BYTES, UnpackingReader

CRASHED_BYTES, OTHER_BYTES = 256 << 10, 16 << 10
"""Of the stack of the thread that crashed, and of each other one."""

MAX_STACKS, MAX_FILES = 32, 256
VDSO_BYTES = 8192


def read_image(fd: int, reader: CoreReader) -> CoreImage:
    """
    Return the image of a core.

    Args:
        fd: The file; it stays the caller's.
        reader: Reads it, and has read its notes; the memory of a compressed core comes through it.

    Raises:
        CoreError: If it is not a core.
    """
    head = head_of(core_reader(fd))
    if not isinstance(reader, UnpackingReader):
        return CoreImage(head=head, memory=FileMemory(fd, head.segments()))
    return CoreImage(head=head, memory=_picked(CoreImage(head=head, memory=NO_MEMORY), reader))


def _picked(image: CoreImage, reader: UnpackingReader) -> PickedMemory:
    """Read what frames and modules need, as far as it is in the next `LOOKAHEAD_BYTES`; at most 2 MiB."""
    pieces: dict[int, bytes] = {}
    end = reader.position + LOOKAHEAD_BYTES
    for offset, address, size in sorted(_wanted(image)):
        skipped = max(0, reader.position - offset)
        if skipped >= size or offset + size > end:
            continue
        try:
            reader.skip(offset - reader.position)
            pieces[address + skipped] = reader.read(size - skipped)
        except CoreError:  # it is damaged here
            break
    return PickedMemory(pieces)


def _wanted(image: CoreImage) -> Iterator[tuple[int, int, int]]:
    """Yield offset, address and size of the stacks, the first pages of modules, and the program's name."""
    for number, thread in zip(range(MAX_STACKS), image.threads, strict=False):
        start = page(max(0, thread.sp - RED_ZONE_BYTES))  # memory is looked at in whole pages
        yield from _part(image, start, OTHER_BYTES if number else CRASHED_BYTES)
    begun = (file.start for file in image.files if file.offset == 0)
    for _, start in zip(range(MAX_FILES), begun, strict=False):
        yield from _part(image, start, PAGE_BYTES)
    for kind, size in ((AT_SYSINFO_EHDR, VDSO_BYTES), (AT_EXECFN, 2 * PAGE_BYTES)):
        if start := image.auxv.get(kind, 0):
            yield from _part(image, page(start), size)


def _part(image: CoreImage, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    segment = image.segments.find(start) or image.segments.after(start)
    while segment is not None and not segment.file_bytes and segment.start <= start + size:
        segment = image.segments.after(segment.start)  # behind a guard that a stack ran into
    if segment is None or segment.start > start + size:
        return
    start, end = max(start, segment.start), min(start + size, segment.start + segment.file_bytes)
    if start < end:
        yield segment.offset + start - segment.start, start, end - start
