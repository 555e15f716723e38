"""``/proc/PID/stat``, of a process or of a thread."""

from __future__ import annotations

import msgspec

from collector.host.files import read_at

# Longest stat: 52 numbers of at most 20 digits and a name of 64 bytes (a kernel worker's).
STAT_LIMIT = 2048
DEAD_STATES = frozenset("ZXx")


class Stat(msgspec.Struct, frozen=True, kw_only=True):
    """``/proc/PID/stat``; times in clock ticks, *start_ticks* since boot. Source: proc_pid_stat(5)."""

    pid: int
    comm: bytes
    state: str
    ppid: int
    flags: int
    minor_faults: int
    major_faults: int
    utime_ticks: int
    stime_ticks: int
    nice: int
    threads: int
    start_ticks: int
    vsize_bytes: int
    rss_pages: int
    processor: int


def parse_stat(raw: bytes) -> Stat:
    """
    Parse a ``stat`` line from its last ``)``: the name before it may contain anything, even ``) R 1``.

    Raises:
        ValueError: If it is not a ``stat`` line.
    """
    opening, closing = raw.find(b" ("), raw.rfind(b") ")
    fields = raw[closing + 2 :].split()
    if opening < 0 or closing < opening or len(fields) < 37:
        raise ValueError("not a line of /proc/PID/stat")
    # fields[0] is field 3 of the manual page, "state"
    return Stat(
        pid=int(raw[:opening]),
        comm=raw[opening + 2 : closing],
        state=fields[0].decode("ascii", "replace"),
        ppid=int(fields[1]),
        flags=int(fields[6]),
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        utime_ticks=int(fields[11]),
        stime_ticks=int(fields[12]),
        nice=int(fields[16]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        vsize_bytes=int(fields[20]),
        rss_pages=int(fields[21]),
        processor=int(fields[36]),
    )


def read_stat(dir_fd: int) -> Stat:
    """Read ``stat`` in a process's directory; raise `OSError` if it has ended, `ValueError` if it is malformed."""
    return parse_stat(read_at(dir_fd, "stat", STAT_LIMIT))
