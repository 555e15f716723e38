"""
The files in ``/proc/PID/maps``, read from a process or copied by somebody else.

Source: proc_pid_maps(5), show_map_vma() in fs/proc/task_mmu.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from collector.host.elfcore import MAX_PATH_BYTES, MappedFile

# No number is longer than the kernel's: an address and an offset have 64 bits, a device 12 and 20 bits.
_LINE = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) \S+ ([0-9a-f]{1,16}) ([0-9a-f]{1,3}):([0-9a-f]{1,5}) ([0-9]{1,20}) +(\S.*)"
)


def parse_maps(lines: Iterable[bytes]) -> Iterator[MappedFile]:
    """Yield the files, once per mapping; anonymous mappings, and lines that are not understood, are left out."""
    for line in lines:
        match = _LINE.fullmatch(line.rstrip(b"\n"))
        if match is None or int(match[6]) == 0:
            continue
        yield MappedFile(
            start=int(match[1], 16),
            end=int(match[2], 16),
            offset=int(match[3], 16),
            path=match[7].replace(b"\\012", b"\n")[:MAX_PATH_BYTES],
            device=os.makedev(int(match[4], 16), int(match[5], 16)),
            inode=int(match[6]),
        )
