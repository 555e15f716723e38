"""Where a sparse file holds data."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """
    Yield the ranges between *start* and *end* that hold data, as first and last byte plus one; all else is a hole.

    Raises:
        OSError: From lseek(2).

    Source: lseek(2), ``SEEK_DATA``; unwritten blocks count as holes.
    """
    at = start
    while at < end:
        try:
            low = os.lseek(fd, at, os.SEEK_DATA)
            high = os.lseek(fd, low, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # no more data, or the file shrank
                return
            raise
        if low >= end:
            return
        yield low, min(high, end)
        at = high
