"""
The list of mapped files in a core (NT_FILE), read where it is needed.

It is never taken apart as a whole: of 65,000 mappings it takes 2 to 4 MiB as it is, and 13 more as objects.

Source: fill_files_note() in fs/binfmt_elf.c (Linux 6.18).
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import overload

from collector.host.elfcore import MAX_PATH_BYTES, Layout, MappedFile

NUL = re.compile(rb"\0")


class MappedFileTable(Sequence[MappedFile]):
    """
    The complete mappings of an NT_FILE note, by address.

    The note is a count, a page size, *count* triples (start, end, offset in pages), then *count* names, of which each
    is cut at `MAX_PATH_BYTES`.

    Args:
        layout: Of the core.
        desc: The note.
    """

    def __init__(self, layout: Layout, desc: bytes | memoryview = b"") -> None:
        self._layout = layout
        self._desc = memoryview(desc)
        count, self._page_bytes = layout.unpack("WW", desc) if len(desc) >= 2 * layout.word else (0, 0)
        self._names_at = (2 + 3 * count) * layout.word
        names = NUL.finditer(self._desc[self._names_at :]) if self._names_at <= len(desc) else iter(())
        self._ends = array("I", (found.start() for found, _ in zip(names, range(count), strict=False)))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> MappedFile: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[MappedFile]: ...

    def __getitem__(self, index: int | slice) -> MappedFile | Sequence[MappedFile]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end, offset = self._layout.unpack("WWW", self._desc, (2 + 3 * index) * self._layout.word)
        name_at = self._ends[index - 1] + 1 if index else 0
        name_end = min(self._ends[index], name_at + MAX_PATH_BYTES)
        path = bytes(self._desc[self._names_at + name_at : self._names_at + name_end])
        return MappedFile(start, end, offset * self._page_bytes, path)

    def find(self, address: int) -> MappedFile | None:
        """Return the mapping that holds *address*."""
        index = self._before(address)
        return self[index] if index >= 0 and address < self[index].end else None

    def first_of(self, address: int) -> MappedFile | None:
        """Return the mapping with which the file at *address* begins there: it may be mapped elsewhere, too."""
        first = file = self.find(address)
        if file is None:
            return None
        for index in range(self._before(address), -1, -1):
            one = self[index]
            if one.path != file.path:
                break
            first = one
            if one.offset == 0:
                break
        return first

    def _before(self, address: int) -> int:
        return bisect_right(self._starts, address) - 1

    @cached_property
    def _starts(self) -> array[int]:
        word = self._layout.word
        triples = self._desc[2 * word : (2 + 3 * len(self)) * word]
        form = self._layout.order + ("QQQ" if word == 8 else "III")
        return array("Q", (start for start, _, _ in struct.iter_unpack(form, triples)))
