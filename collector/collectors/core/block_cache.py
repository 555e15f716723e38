"""Memory read in whole blocks: a walk of frames asks for a few words at a time, hundreds of times."""

from __future__ import annotations

from collections.abc import Callable

BLOCK_BYTES = 4096
MAX_BLOCKS = 256
"""1 MiB; what a core of Node.js needs, 7 threads deep in a program of 100 MiB, is 140."""

MAX_READS = 4096
"""Of blocks that were not there; a hostile table leads from one to the next: 0.2 s."""


class BlockCache:
    """
    Reads through another reader, and keeps what it read; full, it begins anew. After `MAX_READS` nothing more is there.

    Args:
        read: Returns what is there of so many bytes at an address.
    """

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._blocks: dict[int, bytes] = {}
        self._left = MAX_READS

    def read(self, address: int, size: int) -> bytes:
        """Return what is there of *size* bytes at *address*; it ends at the first byte that is missing."""
        at = address - address % BLOCK_BYTES
        data = self._block(at)[address - at : address - at + size]
        while len(data) < size and len(data) == at + BLOCK_BYTES - address:
            at += BLOCK_BYTES
            data += self._block(at)[: size - len(data)]
        return data

    def _block(self, at: int) -> bytes:
        block = self._blocks.get(at)
        if block is None:
            if not self._left:
                return b""
            self._left -= 1
            if len(self._blocks) >= MAX_BLOCKS:
                self._blocks.clear()
            block = self._blocks[at] = self._read(at, BLOCK_BYTES)
        return block
