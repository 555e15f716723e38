"""Whether a return address is one."""

from __future__ import annotations

from collections.abc import Callable

LONGEST_CALL = 8
DIRECT, INDIRECT = 0xE8, 0xFF


def follows_call(read: Callable[[int, int], bytes], address: int) -> bool | None:
    """
    Return whether a call stands before *address* on x86-64; ``None`` if the code cannot be read.

    Source: Intel SDM, volume 2, CALL: ``E8`` and four bytes, or ``FF /2`` with its operand (2 to 7 bytes).
    """
    if address < LONGEST_CALL:
        return None
    before = read(address - LONGEST_CALL, LONGEST_CALL)
    if len(before) < LONGEST_CALL:
        return None
    if before[-5] == DIRECT:
        return True
    return any(before[-size] == INDIRECT and before[-size + 1] >> 3 & 7 == 2 for size in (2, 3, 4, 6, 7))
