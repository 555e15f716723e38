"""
What a debugger needs to find a process's libraries: auxv, the program's headers, ``r_debug`` and the link maps.

All of it is the process's own memory: whatever it says there is bounded, and what cannot be read is counted.

Source: elf(5), getauxval(3), link.h of glibc 2.36 (``struct r_debug``, ``struct link_map``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from collector.collectors.core.auxv import AT_BASE, AT_EXECFN, AT_PHDR, AT_PHNUM, AT_PLATFORM
from collector.collectors.core.saved_pages import SavedPages
from collector.host.core_segments import PF_W
from collector.host.elfcore import PT_LOAD, MappedFile, entry_bytes, program_header
from collector.host.memory import PAGE_BYTES

PT_DYNAMIC, PT_PHDR = 2, 6
DT_DEBUG = 21
MAX_PROGRAM_HEADERS, MAX_TAGS = 64, 256
MAX_NAMESPACES = 16  # glibc's DL_NNS
MAX_MODULES = 4096
MAX_NAME_BYTES = 4096
MAX_DATA_BYTES = 256 << 10
DYNAMIC_BYTES = 1024
# Whose data name the threads: gdb's libthread_db reads them.
C_LIBRARY = re.compile(rb"/(?:libc|libpthread)[.-][^/]*$|/ld-[^/]*$")


def save_modules(saved: SavedPages, auxv: dict[int, int], files: Iterable[MappedFile]) -> int:
    """
    Save what leads to the libraries.

    Args:
        saved: What it is read through.
        auxv: By type.
        files: The mapped files, by address.

    Returns:
        How many links of the chain could not be read.
    """
    saved.take_vdso()
    for name in (AT_PLATFORM, AT_EXECFN):
        _read_name(saved, auxv.get(name, 0))
    lost = _save_link_maps(saved, _debug_address(saved, auxv))
    _save_files(saved, auxv, files)
    return lost


def _debug_address(saved: SavedPages, auxv: dict[int, int]) -> int:
    """Return where ``r_debug`` is, as the program's dynamic section says; 0 if it does not."""
    table_at, layout = auxv.get(AT_PHDR, 0), saved.layout
    size = entry_bytes(layout)
    raw = saved.read(table_at, min(auxv.get(AT_PHNUM, 0), MAX_PROGRAM_HEADERS) * size)
    found: dict[int, tuple[int, int]] = {}
    for at in range(0, len(raw) - size + 1, size):
        entry = program_header(layout, raw, at)
        found.setdefault(entry.kind, (entry.address, entry.memory_bytes))
    if PT_DYNAMIC not in found:
        return 0
    if PT_PHDR in found:
        bias = table_at - found[PT_PHDR][0]
    else:
        segment = saved.segments.find(table_at)
        bias = segment.start - (found.get(PT_LOAD, (0, 0))[0] & -PAGE_BYTES) if segment else 0
    address, length = found[PT_DYNAMIC]
    tags = saved.words(max(0, bias + address), min(length // layout.word, 2 * MAX_TAGS))
    return next((value for tag, value in zip(tags[::2], tags[1::2], strict=False) if tag == DT_DEBUG), 0)


def _save_link_maps(saved: SavedPages, debug_at: int) -> int:
    """Walk every namespace's chain; a chain that leads in circles, or into nothing, ends there."""
    seen: set[int] = set()
    lost = 0
    for _ in range(MAX_NAMESPACES):
        if not debug_at:
            break
        debug = saved.words(debug_at, 6)  # r_version, r_map, r_brk, r_state, r_ldbase, and since version 2 r_next
        if len(debug) < 5:
            return lost + 1
        at = debug[1]
        while at and at not in seen and len(seen) < MAX_MODULES:
            seen.add(at)
            link = saved.words(at, 5)  # l_addr, l_name, l_ld, l_next, l_prev
            if len(link) < 5:
                lost += 1
                break
            _read_name(saved, link[1])
            saved.take(link[2], link[2] + DYNAMIC_BYTES)
            at = link[3]
        debug_at = debug[5] if len(debug) > 5 and debug[0] & 0xFFFF_FFFF >= 2 and debug[5] not in seen else 0
        seen.add(debug_at)
    return lost


def _read_name(saved: SavedPages, at: int) -> None:
    """Save a string, as far as its NUL."""
    end = at + MAX_NAME_BYTES
    while at and at < end:
        step = min(end, (at | PAGE_BYTES - 1) + 1) - at
        raw = saved.read(at, step)
        if len(raw) < step or b"\0" in raw:
            return
        at += step


def _save_files(saved: SavedPages, auxv: dict[int, int], files: Iterable[MappedFile]) -> None:
    """Save the first page of every program and library, and the data of those that know the threads."""
    own = auxv.get(AT_BASE) or auxv.get(AT_PHDR, 0)  # a static program is its own C library
    own_path = b""
    modules = 0
    none = MappedFile(0, 0, 0, b"")
    for file, following in itertools.pairwise(itertools.chain(files, (none,))):
        if file.start <= own < file.end:
            own_path = file.path
        segment = saved.segments.find(file.start)
        if segment is None or not segment.file_bytes:
            continue
        if file.offset == 0 and not segment.flags & PF_W and modules < MAX_MODULES:
            modules += 1
            saved.take(file.start, file.start + 1)
        if file.path == own_path or C_LIBRARY.search(file.path):
            _save_data(saved, file, following)


def _save_data(saved: SavedPages, file: MappedFile, following: MappedFile) -> None:
    """Save what was written to of a library, and the anonymous memory behind it: its ``.bss``."""
    segment = saved.segments.find(file.start)
    if segment is None or segment.file_bytes < segment.memory_bytes:  # the kernel dumps only its first page
        return
    saved.take(file.start, min(file.end, file.start + MAX_DATA_BYTES))
    behind = saved.segments.find(file.end)
    if behind is not None and behind.flags & PF_W and following.start != file.end:
        saved.take(file.end, min(behind.end, file.end + MAX_DATA_BYTES))
