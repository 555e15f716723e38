"""What a run that was cut off has planned to copy, and whether it is still what it was."""

from __future__ import annotations

import os
import stat

from collector.collectors.base import Earlier
from collector.host.files import open_beneath
from collector.model.decode import MalformedError, decode
from collector.model.errors import StepError
from collector.model.segments import Planned
from collector.model.text import unescape_name

MISSING = "missing.txt"
"""Why the plan does not have all that is wanted, one reason a line; written before the plan."""


def planned_before(earlier: Earlier) -> list[Planned] | None:
    """Return the rows of an earlier run's ``segments.jsonl``; ``None`` if that was not written, or is damaged."""
    text = earlier.read("segments.jsonl")
    if text is None:
        return None
    try:
        return [decode(line, Planned) for line in text.splitlines()]
    except MalformedError:
        return None


def open_again(root_fd: int, row: Planned) -> int:
    """
    Open a planned segment, if it is still the same file, of the same size, and was not written to since.

    What is stored through a mapping changes no time stamp: of a segment in use, only a copy shows the moment.

    Raises:
        StepError: If it is not.
        OSError: From open(2).
    """
    fd = open_beneath(root_fd, unescape_name(row.name))
    now = os.fstat(fd)
    found = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
    if not stat.S_ISREG(now.st_mode) or found != (row.device, row.inode, row.size_bytes, row.mtime_ns):
        os.close(fd)
        raise StepError("it was replaced, or written to, while the collector was not running")
    return fd
