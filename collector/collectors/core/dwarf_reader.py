"""Numbers as DWARF encodes them."""

from __future__ import annotations

from collector.host.elfcore import Layout

# Source: LSB 5.0, "DWARF Exception Header Encoding": the low nibble is the format, the next three bits what it adds to.
FORMATS = {0x0: "W", 0x2: "H", 0x3: "I", 0x4: "Q", 0xA: "h", 0xB: "i", 0xC: "q"}
PC_RELATIVE = 0x10
MAX_LEB_BYTES = 10  # of 64 bits


class DwarfError(ValueError):
    """A table that is cut, or encoded as no known linker does it."""


class DwarfReader:
    """
    Reads forwards.

    Args:
        layout: Of the core.
        data: What is read.
        address: Where it is in memory.
    """

    def __init__(self, layout: Layout, data: bytes, address: int = 0) -> None:
        self.at = 0
        self._layout = layout
        self._data = data
        self._address = address

    @property
    def left(self) -> bool:
        return self.at < len(self._data)

    def number(self, form: str) -> int:
        """Read one number, by its `struct` format, or ``W`` for a word."""
        size = {"W": self._layout.word, "H": 2, "h": 2, "I": 4, "i": 4, "Q": 8, "q": 8, "B": 1, "b": 1}[form]
        if self.at + size > len(self._data):
            raise DwarfError("it is cut off")
        (value,) = self._layout.unpack(form, self._data, self.at)
        self.at += size
        return value

    def byte(self) -> int:
        return self.number("B")

    def take(self, size: int) -> bytes:
        if self.at + size > len(self._data):
            raise DwarfError("it is cut off")
        self.at += size
        return self._data[self.at - size : self.at]

    def rest(self) -> bytes:
        return self._data[self.at :]

    def string(self) -> bytes:
        """Read up to a NUL."""
        end = self._data.find(b"\0", self.at)
        if end < 0:
            raise DwarfError("it is cut off")
        found, self.at = self._data[self.at : end], end + 1
        return found

    def uleb(self) -> int:
        return self._leb()[0]

    def sleb(self) -> int:
        value, bits, last = self._leb()
        return value - (1 << bits) if last & 0x40 else value

    def _leb(self) -> tuple[int, int, int]:
        value = bits = 0
        for _ in range(MAX_LEB_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << bits
            bits += 7
            if byte < 0x80:
                return value, bits, byte
        raise DwarfError("a number of more than 64 bits")

    def encoded(self, encoding: int) -> int:
        """Read a pointer in *encoding*."""
        form, base = FORMATS.get(encoding & 0xF), encoding & 0xF0
        if form is None or base not in {0, PC_RELATIVE}:
            raise DwarfError(f"pointers encoded as {encoding:#x}")
        at = self._address + self.at
        return self.number(form) + (at if base == PC_RELATIVE else 0)
