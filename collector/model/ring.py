"""A ring of rows in memory that several processes share: one writes, the others read."""

from __future__ import annotations

import struct
from collections.abc import Iterator

COUNT = struct.Struct("<Q")
LARGEST_COUNT = (1 << 64) - 1


class Ring:
    """
    The last rows of fixed length.

    The count of all rows ever written comes first and is updated last, and there is one slot more than rows that are
    kept, for the row being written: a concurrent reader never takes a row that is half written for a whole one.

    Args:
        memory: Zeroed, or a ring with rows of the same length; `ring_bytes` is the right size.
        row_bytes: Length of a row.

    Raises:
        ValueError: If *memory* has no room for a row.
    """

    def __init__(self, memory: memoryview, row_bytes: int) -> None:
        self._memory = memory
        self._row_bytes = row_bytes
        self._slots = (len(memory) - COUNT.size) // row_bytes
        self.capacity = self._slots - 1
        if self.capacity < 1:
            raise ValueError(f"{len(memory)} bytes have no room for a row of {row_bytes}")

    @property
    def written(self) -> int:
        """How many rows were ever written."""
        count: int = COUNT.unpack_from(self._memory, 0)[0]
        return count

    def append(self, row: bytes | bytearray | memoryview) -> None:
        """Write a row over the oldest; raise `ValueError` if it has another length."""
        if len(row) != self._row_bytes:
            raise ValueError(f"a row of {len(row)} bytes, not {self._row_bytes}")
        count = self.written
        at = self._offset(count)
        self._memory[at : at + self._row_bytes] = row
        COUNT.pack_into(self._memory, 0, (count + 1) & LARGEST_COUNT)  # whatever a broken worker has written there

    def rows(self, newest: int | None = None) -> Iterator[bytes]:
        """
        Yield the rows that are there at the call, or the *newest* of them, the oldest first.

        Those overwritten meanwhile are left out.
        """
        end = self.written
        count = self.capacity if newest is None else min(newest, self.capacity)
        for number in range(max(0, end - count), end):
            at = self._offset(number)
            row = bytes(self._memory[at : at + self._row_bytes])
            if number + self._slots > self.written:  # else the writer may be at work on it
                yield row

    def last(self) -> bytes | None:
        """Return the newest row; ``None`` while there is none."""
        if not (count := self.written):
            return None
        at = self._offset(count - 1)
        return bytes(self._memory[at : at + self._row_bytes])

    def _offset(self, number: int) -> int:
        return COUNT.size + number % self._slots * self._row_bytes


def ring_bytes(rows: int, row_bytes: int) -> int:
    """Return the memory that a ring of *rows* needs."""
    return COUNT.size + (rows + 1) * row_bytes
