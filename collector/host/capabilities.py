"""
Capabilities that this process may use but does not, except where it says so.

The supervisor cannot give up for good what its workers need, because it forks further ones later; but what is not
effective cannot be used by mistake. Source: capabilities(7), capset(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Iterator

from collector.host.syscalls import call

# include/uapi/linux/capability.h
SYS_ADMIN, CHECKPOINT_RESTORE = 21, 40
VERSION_3 = 0x20080522
HEADER = struct.pack("=Ii", VERSION_3, 0)  # this thread
SETS = struct.Struct("=6I")  # effective, permitted, inheritable: first the low halves, then the high ones


def set_aside(*numbers: int) -> None:
    """Make capabilities ineffective for this thread and those that it starts afterwards."""
    effective, permitted, inheritable = _sets()
    _set(effective & ~_mask(numbers), permitted, inheritable)


def use(*numbers: int) -> None:
    """Make capabilities effective that were set aside; those that this process does not have stay away."""
    effective, permitted, inheritable = _sets()
    _set(effective | permitted & _mask(numbers), permitted, inheritable)


@contextlib.contextmanager
def using(number: int) -> Iterator[None]:
    """Make a capability effective during the block, if it is permitted."""
    before = _sets()
    use(number)
    try:
        yield
    finally:
        _set(*before)


def _mask(numbers: tuple[int, ...]) -> int:
    return sum(1 << number for number in numbers)


def _sets() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable sets, one bit each."""
    data = ctypes.create_string_buffer(SETS.size)
    call("capget", HEADER, data)
    halves = SETS.unpack(data.raw)
    return halves[0] | halves[3] << 32, halves[1] | halves[4] << 32, halves[2] | halves[5] << 32


def _set(*sets: int) -> None:
    if sets != _sets():
        call("capset", HEADER, SETS.pack(*(one & 0xFFFFFFFF for one in sets), *(one >> 32 for one in sets)))
