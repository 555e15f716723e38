"""
A module's unwind table: which function an address is in, and how its frame is left.

Source: LSB 5.0, "Exception Frames" (``.eh_frame``, ``.eh_frame_hdr``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collector.collectors.core.dwarf_reader import DwarfError, DwarfReader
from collector.host.elfcore import Layout

HEAD = bytes((1, 0x1B, 0x03, 0x3B))
"""Version; the table's address, relative; a count of 4 bytes; pairs relative to the header. All linkers write it so."""

MAX_FUNCTIONS = 1 << 24
MAX_ENTRY_BYTES = 16_384  # the longest of Debian 12's libc has 1,100


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionEntry:
    """
    A function, and the instructions that tell where its caller's registers are.

    Args:
        start: Its first address.
        size: In bytes.
        is_signal: It is the trampoline to which signal handlers return: its caller was interrupted, and called nothing.
        code_align: Unit of the instructions' advances.
        data_align: Unit of their offsets.
        return_register: The number of the column with the return address.
        initial: What holds at the function's beginning.
        program: What its code changes, by address.
    """

    start: int
    size: int
    is_signal: bool
    code_align: int
    data_align: int
    return_register: int
    initial: bytes
    program: bytes


def find_function(layout: Layout, read: Callable[[int, int], bytes], table_at: int, pc: int) -> FunctionEntry | None:
    """
    Return the function that *pc* is in, by binary search; ``None`` if the table has none there.

    Args:
        layout: Of the core.
        read: Returns what is there of so many bytes at an address.
        table_at: The address of the ``.eh_frame_hdr``.
        pc: The address.

    Raises:
        DwarfError: If the table cannot be read.
    """
    head = DwarfReader(layout, read(table_at, 12))
    if head.take(4) != HEAD:
        raise DwarfError("there is no table, or not of the usual kind")
    head.number("i")
    low, high = 0, min(head.number("I"), MAX_FUNCTIONS)
    while high - low > 1:
        middle = (low + high) // 2
        if table_at + DwarfReader(layout, read(table_at + 12 + 8 * middle, 4)).number("i") <= pc:
            low = middle
        else:
            high = middle
    if low == high:
        return None
    pair = DwarfReader(layout, read(table_at + 12 + 8 * low, 8))
    pair.number("i")
    entry = _entry(layout, read, table_at + pair.number("i"))
    return entry if entry.start <= pc < entry.start + entry.size else None


def _entry(layout: Layout, read: Callable[[int, int], bytes], at: int) -> FunctionEntry:
    """Parse the frame description at *at*, and the common information that it points to."""
    data, at = _record(layout, read, at)
    reader = DwarfReader(layout, data, at)
    common_at = at - reader.number("I")
    augmented, encoding, common = _common(layout, read, common_at)
    start = reader.encoded(encoding)
    size = reader.encoded(encoding & 0xF)
    if augmented:
        reader.take(reader.uleb())
    return FunctionEntry(start=start, size=size, program=reader.rest(), **common)


def _record(layout: Layout, read: Callable[[int, int], bytes], at: int) -> tuple[bytes, int]:
    size = DwarfReader(layout, read(at, 4)).number("I")
    if not 4 <= size <= MAX_ENTRY_BYTES:
        raise DwarfError(f"an entry of {size} bytes")
    data = read(at + 4, size)
    if len(data) < size:
        raise DwarfError("it is cut off")
    return data, at + 4


def _common(layout: Layout, read: Callable[[int, int], bytes], at: int) -> tuple[bool, int, dict[str, Any]]:
    """Return whether there is augmentation data, how addresses are encoded, and the entry's common fields."""
    data, at = _record(layout, read, at)
    reader = DwarfReader(layout, data, at)
    if reader.number("I") != 0:
        raise DwarfError("it points to no common information")
    version, augmentation = reader.byte(), reader.string()
    if version not in {1, 3} or not (augmentation == b"" or augmentation.startswith(b"z")):
        raise DwarfError(f"version {version}, augmentation {augmentation!r}")
    common: dict[str, Any] = {"code_align": reader.uleb(), "data_align": reader.sleb()}
    common["return_register"] = reader.byte() if version == 1 else reader.uleb()
    encoding = 0
    if augmentation:
        inner = DwarfReader(layout, reader.take(reader.uleb()), at)
        for letter in augmentation[1:]:
            if letter == ord("R"):
                encoding = inner.byte()
            elif letter == ord("L"):
                inner.byte()
            elif letter == ord("P"):
                inner.encoded(inner.byte() & 0xF)
            elif letter not in b"SB":
                raise DwarfError(f"augmentation {augmentation!r}")
    common |= {"is_signal": b"S" in augmentation, "initial": reader.rest()}
    return bool(augmentation), encoding, common
