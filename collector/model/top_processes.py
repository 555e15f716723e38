"""
The largest processes by memory and by CPU, as the flight recorder keeps them.

A round visits all processes, a part at a time; the state of the round that is under way lies in shared memory, because
any worker may take the next part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from heapq import nlargest
from operator import attrgetter
from typing import NamedTuple

LARGEST = 10
ROUND_S = 10.0
"""Shortest time between the beginnings of two rounds, unless the recorder goes back by more than an hour."""

FRESH_TICKS = 6000
"""A process that is visited for the first time, and younger than a minute, has the share of its whole life."""

UNKNOWN = (1 << 32) - 1
ENTRY = struct.Struct("<IIQQ16s")
ROUND = struct.Struct(f"<QQQ{2 * LARGEST * ENTRY.size}s")
"""When the round began and ended, in nanoseconds since boot; how many processes it visited; the largest."""

OFFSET = struct.Struct("<q")
STATE_BYTES = OFFSET.size + ROUND.size

VISIT = struct.Struct("<IIII")
VISITS = 8192
"""
Slots for the CPU time of a process at its last visit, by PID modulo this. Of two processes with one slot, one has no
share of the CPU in this round; 2,000 with consecutive PIDs have a slot each.
"""
VISITS_BYTES = VISITS * VISIT.size
LOW = 0xFFFF_FFFF


class TopProcess(NamedTuple):
    """
    A process as a round saw it.

    *cpu* is in thousandths of one CPU since the last visit, or since it started; ``None`` if neither is known.
    """

    pid: int
    comm: bytes
    start_ticks: int
    rss_bytes: int
    cpu: int | None


class Round(NamedTuple):
    """A complete round; times in seconds since boot."""

    began_s: float
    ended_s: float
    processes: int
    by_memory: tuple[TopProcess, ...]
    by_cpu: tuple[TopProcess, ...]


class RoundState:
    """The round under way: where it goes on, and the largest so far."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    @property
    def offset(self) -> int:
        """Where the next part begins; 0: with the first process, of a new round."""
        offset: int = OFFSET.unpack_from(self._memory)[0]
        return offset

    def add(self, found: Iterable[TopProcess], *, visited: int, following: int, now_ns: int) -> None:
        """Take in a part of the round, after which it goes on at *following*; 0: it is complete."""
        began_ns, _, count, entries = ROUND.unpack_from(self._memory, OFFSET.size)
        if self.offset == 0:
            began_ns, count, entries = now_ns, 0, b""
        memory, cpu = _read(entries)
        found = tuple(found)
        largest = nlargest(LARGEST, (*memory, *(one for one in found if one.rss_bytes)), key=attrgetter("rss_bytes"))
        busiest = nlargest(LARGEST, (*cpu, *(one for one in found if one.cpu)), key=lambda one: one.cpu or 0)
        row = ROUND.pack(began_ns, now_ns, count + visited, _written(largest) + _written(busiest))
        self._memory[OFFSET.size : OFFSET.size + len(row)] = row
        OFFSET.pack_into(self._memory, 0, following)

    def row(self) -> bytes:
        """Return the round as the ring keeps it, once it is complete."""
        return bytes(self._memory[OFFSET.size :])


class Visits:
    """The CPU time of each process at its last visit."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def cpu(self, pid: int, start_ticks: int, ticks: int, *, now_ticks: int) -> int | None:
        """
        Note a visit; return the share of one CPU since the last one, in thousandths.

        Args:
            ticks: CPU time of the process so far, in clock ticks, as all times here.
            now_ticks: Since boot.
        """
        at = pid % VISITS * VISIT.size
        known, start, before, then = VISIT.unpack_from(self._memory, at)
        VISIT.pack_into(self._memory, at, pid, start_ticks & LOW, ticks & LOW, now_ticks & LOW)
        if (known, start) != (pid, start_ticks & LOW):
            if now_ticks - start_ticks > FRESH_TICKS:
                return None
            before, then = 0, start_ticks & LOW
        used = (ticks - before) & LOW
        if used > LOW // 2:  # less than before: the kernel shows 0 of a process that is just being reaped
            return None
        share: int = used * 1000 // max(1, (now_ticks - then) & LOW)
        return min(UNKNOWN - 1, share)


def read_round(row: bytes) -> Round:
    """Return what a row of the ring holds."""
    began_ns, ended_ns, count, entries = ROUND.unpack(row)
    memory, cpu = _read(entries)
    return Round(began_ns / 1e9, ended_ns / 1e9, count, memory, cpu)


def _read(entries: bytes) -> tuple[tuple[TopProcess, ...], tuple[TopProcess, ...]]:
    half = LARGEST * ENTRY.size
    return _list(entries[:half]), _list(entries[half:])


def _list(entries: bytes) -> tuple[TopProcess, ...]:
    whole = len(entries) // ENTRY.size * ENTRY.size
    return tuple(
        TopProcess(pid, comm.rstrip(b"\0"), start, rss, None if cpu == UNKNOWN else cpu)
        for pid, cpu, start, rss, comm in ENTRY.iter_unpack(entries[:whole])
        if pid
    )


def _written(processes: Iterable[TopProcess]) -> bytes:
    packed = b"".join(
        ENTRY.pack(one.pid, UNKNOWN if one.cpu is None else one.cpu, one.start_ticks, one.rss_bytes, one.comm[:16])
        for one in processes
    )
    return packed.ljust(LARGEST * ENTRY.size, b"\0")
