"""The fields of a process, each from a small file of ``/proc/PID``."""

from __future__ import annotations

from collector.host.files import read_at
from collector.host.own_procfs import Procfs, affordable
from collector.host.process_identity import real_uid
from collector.model.owners import Owners

FILE_LIMIT = 4096
# The number of processes that can be read in full without a private procfs. Both tables together look up nine names per
# process: its directory, the six files of a row, cmdline and io.
WHOLE = affordable(names=9)


def optional(process: int, name: str, limit: int = FILE_LIMIT) -> bytes:
    """Return a file's first bytes; nothing if it may not be read or the process has ended."""
    try:
        return read_at(process, name, limit)
    except OSError:
        return b""


def number_after(text: bytes, key: bytes) -> str:
    """Return the word after *key*; empty if *key* is missing."""
    at = text.find(key)
    words = text[at + len(key) : at + len(key) + 40].split(None, 1) if at >= 0 else []
    return words[0].decode("ascii", "replace") if words else ""


def owner_in(procfs: Procfs, users: Owners, pid: int) -> str:
    """Return whose process it is, by its real uid."""
    try:
        with procfs.process(pid) as process:
            return users.of(real_uid(read_at(process, "status", FILE_LIMIT)))
    except OSError:  # it has ended
        return users.of(None)
