"""Which parts of a buffer are not zero: what a core holds of memory that was never touched is left as a hole."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import groupby

from collector.copying.buffers import Buffer
from collector.host.syscalls import LIBC

WORD = 8

LIBC.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def data_runs(buffer: Buffer, used: int, block: int) -> Iterator[tuple[int, int]]:
    """
    Yield the ranges of a buffer's first *used* bytes that hold data, half-open and in order.

    The first word of a block tells most of those with data; the others are compared. That takes 0.005 s of CPU per GiB
    of data, and 0.16 at worst. A hole of one block costs as much as another write, so that it is written.

    Args:
        buffer: Ends at a multiple of *block*, and holds zeros behind *used* up to there.
        used: In bytes.
        block: Length of the ranges: a power of two; all but the end of the last are multiples of it.
    """
    blocks = -(-used // block)
    words = buffer.view[: blocks * block].cast("Q")[:: block // WORD].tolist()
    if 0 not in words:
        yield 0, used
        return
    start = end = 0
    for low, high in _solid(buffer.address, words, block):
        if end and low > end + block:
            yield start, end
            start = low
        elif not end:
            start = low
        end = high
    if end:
        yield start, min(end, used)


def _solid(address: int, words: list[int], block: int) -> Iterator[tuple[int, int]]:
    """Yield ranges that hold data throughout, by the first *words* of their blocks."""
    number = 0
    for is_candidate, group in groupby(words, key=lambda word: not word):
        first, number = number, number + len(list(group))
        if not is_candidate:
            yield first * block, number * block
        elif not is_zero(address + first * block, (number - first) * block):
            for at in range(first * block, number * block, block):
                if not is_zero(address + at, block):
                    yield at, at + block


def is_zero(address: int, size: int) -> bool:
    """Return whether memory that begins with a word of zeros is all zero: each byte equals the one a word before."""
    return not LIBC.memcmp(address, address + WORD, size - WORD)
