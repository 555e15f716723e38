"""
Why the C library aborted: the message that glibc keeps for whoever finds the core.

``__abort_msg`` in its data points to whole pages of their own: their size, then the text, then zeros. They are looked
for by that, since the core of a file does not hold the symbols.

Source: sysdeps/posix/libc_fatal.c, assert/assert.c (glibc 2.36); the same since 2.4.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from collector.collectors.core.auxv import AT_PHDR
from collector.collectors.core.image import CoreImage
from collector.collectors.core.modules import C_LIBRARY
from collector.host.core_segments import PF_R, PF_W, Segment
from collector.host.memory import PAGE_BYTES

MAX_DATA_BYTES = 128 << 10
"""Of a library's data, and as much of its ``.bss``: those of glibc 2.36 take 24 and 52 KiB."""

MAX_DATA = 32
"""Most pieces of such data: a process has two or three, and of what it calls so as many as it likes."""

MAX_MESSAGE_BYTES = 1024
SIZE_BYTES = 4
MAX_PAGES = 64
MAX_POINTERS = 1024
"""Most addresses that are tried: the C library's data hold a dozen, those of a hostile program 32,768."""

READ_WRITE = PF_R | PF_W


def abort_message(image: CoreImage) -> bytes:
    """Return the message, without its end of line; empty if there is none, or more than one that it might be."""
    data = itertools.islice(_data(image), MAX_DATA)
    pointers = (word for segment in data for word in _page_pointers(image, segment) if image.files.find(word) is None)
    tried = itertools.islice(dict.fromkeys(pointers), MAX_POINTERS)
    found = {message for word in tried if (message := _message(image, word))}
    return found.pop() if len(found) == 1 else b""


def _data(image: CoreImage) -> Iterator[Segment]:
    """Yield the writable memory of the C library, or of the program if that contains it."""
    program = image.auxv.get(AT_PHDR, 0)
    files = [file for file in image.files if C_LIBRARY.search(file.path)]
    if not files:
        own = image.files.find(program)
        files = [file for file in image.files if own is not None and file.path == own.path]
    for file in files:
        segment = image.segments.find(file.start)
        if segment is None or segment.flags != READ_WRITE:
            continue
        yield segment
        behind = image.segments.find(segment.end)
        if behind is not None and behind.flags == READ_WRITE:
            yield behind


def _page_pointers(image: CoreImage, segment: Segment) -> Iterator[int]:
    """Yield the words of *segment* that may be addresses of whole pages."""
    pages = range(segment.start, min(segment.end, segment.start + MAX_DATA_BYTES), PAGE_BYTES)
    for at in pages:
        words = image.words(at, PAGE_BYTES // image.layout.word)
        yield from (word for word in words if word and not word % PAGE_BYTES)


def _message(image: CoreImage, at: int) -> bytes:
    """Return the message at a page; empty if it is not one."""
    segment = image.segments.find(at)
    if segment is None or segment.flags != READ_WRITE:
        return b""
    raw = image.memory.read(at, PAGE_BYTES)
    if len(raw) < PAGE_BYTES:
        return b""
    size = image.layout.unpack("I", raw)[0]
    text, _, rest = raw[SIZE_BYTES:].partition(b"\0")
    pages, odd = divmod(size, PAGE_BYTES)
    ends_here = not rest.strip(b"\0") and text.endswith(b"\n") and b"\0" not in text
    if odd or not 1 <= pages <= MAX_PAGES or not ends_here or any(byte < 32 for byte in text[:-1].replace(b"\t", b"")):
        return b""
    return text[:MAX_MESSAGE_BYTES].removesuffix(b"\n")
