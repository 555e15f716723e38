"""What tells one build of a program from another: its build-id, else its first page."""

from __future__ import annotations

from collections.abc import Callable

from collector.host.elf_notes import raw_notes
from collector.host.elfcore import PT_NOTE, Layout, entry_bytes, header_bytes, program_header

MAGIC = b"\x7fELF"
NT_GNU_BUILD_ID = 3
MAX_ENTRIES = 64
MAX_NOTE_BYTES = 1 << 16
MAX_ID_BYTES = 64
PAGE_BYTES = 4096

Read = Callable[[int, int], bytes]
"""Takes an offset into the image and a size; returns what is there."""


def build_id(read: Read) -> str:
    """
    Return the build-id of an ELF image in hexadecimal; empty if it has none, or is not one.

    Source: elf(5), ld(1), ``--build-id``.
    """
    head = read(0, header_bytes(8))
    layout = _layout(head)
    if layout is None or len(head) < header_bytes(layout.word):
        return ""
    _, table_at, _ = layout.unpack("WWW", head, 24)
    _, _, entry, count, *_ = layout.unpack("IHHHH", head, 24 + 3 * layout.word)
    if entry != entry_bytes(layout):
        return ""
    table = read(table_at, min(count, MAX_ENTRIES) * entry)
    for at in range(0, len(table) - entry + 1, entry):
        found = program_header(layout, table, at)
        if found.kind != PT_NOTE:
            continue
        for note in raw_notes(layout, memoryview(read(found.offset, min(found.file_bytes, MAX_NOTE_BYTES)))):
            if note.type == NT_GNU_BUILD_ID and note.name == b"GNU":
                return bytes(note.desc[:MAX_ID_BYTES]).hex()
    return ""


def _layout(head: bytes) -> Layout | None:
    if head[:4] != MAGIC or len(head) < 16 or head[4] not in {1, 2} or head[5] not in {1, 2}:
        return None
    return Layout(word=8 if head[4] == 2 else 4, order="<" if head[5] == 1 else ">", machine="")
