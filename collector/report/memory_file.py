"""Small files in memory, to be read only."""

from __future__ import annotations

import os


def memory_file(data: bytes) -> int:
    """Return a descriptor, open for reading, of a file with *data*, which has no name."""
    fd = os.memfd_create("report")
    try:
        os.write(fd, data)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
