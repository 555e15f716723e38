"""
The flight recorder's memory: what the machine was like in the last minutes, second by second.

Rows hold counters as the kernel counts them; whoever reads computes rates. Each row has its own time: after a suspend,
or where the supervisor was late, rows are missing, and only their times say so.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, NamedTuple

import msgspec

from collector.model.ring import Ring, ring_bytes
from collector.model.top_processes import ROUND, ROUND_S, STATE_BYTES, VISITS_BYTES, RoundState, Visits
from collector.model.units import Seconds

STEP = "recorder"
"""The id of the step that archives it."""

MAX_ROWS = 3600
"""An hour at one row per second: 1.3 MiB of memory, and as much of the 3 MiB for the evidence read first."""

MAX_ROUNDS = 360
"""Rounds over the processes, of 824 bytes, as text 1.2 KiB: an hour at one every 10 s."""

MISSING = (1 << 64) - 1
"""In place of what this kernel does not have."""


class RecorderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The flight recorder: a ring of figures of the machine, which each incident archives.

    Args:
        period: Time between two rows; the supervisor looks every 500 ms whether it is time.
        keep: How far back it goes, at most 3,600 rows; ``0s`` turns it off. 15 minutes take 0.5 MiB of memory, and
            0.3 MiB of each incident.
    """

    period_s: Annotated[Seconds, msgspec.Meta(ge=0.5, le=60.0)] = msgspec.field(name="period", default=Seconds(1.0))
    keep_s: Annotated[Seconds, msgspec.Meta(ge=0.0, le=86_400.0)] = msgspec.field(name="keep", default=Seconds(900.0))

    @property
    def rows(self) -> int:
        """Rows to keep; 0 if it is off."""
        return -int(-self.keep_s // self.period_s)

    @property
    def round_s(self) -> float:
        """Shortest time between the beginnings of two rounds over the processes."""
        return max(ROUND_S, self.keep_s / MAX_ROUNDS)


class Column(NamedTuple):
    """One figure of a row; *kind* is ``clock``, ``counter`` (since boot) or ``gauge``; stored times *scale*."""

    name: str
    unit: str
    kind: str
    scale: int = 1


COLUMNS = (
    Column("boottime", "s", "clock", 10**9),
    Column("psi_memory_some", "us", "counter"),
    Column("psi_memory_full", "us", "counter"),
    Column("psi_io_some", "us", "counter"),
    Column("psi_io_full", "us", "counter"),
    Column("psi_cpu_some", "us", "counter"),
    Column("mem_available", "bytes", "gauge"),
    Column("mem_free", "bytes", "gauge"),
    Column("shmem", "bytes", "gauge"),
    Column("dirty", "bytes", "gauge"),
    Column("writeback", "bytes", "gauge"),
    Column("pgfault", "faults", "counter"),
    Column("pgmajfault", "faults", "counter"),
    Column("pgscan_direct", "pages", "counter"),
    Column("pgscan_kswapd", "pages", "counter"),
    Column("pgsteal_direct", "pages", "counter"),
    Column("pgsteal_kswapd", "pages", "counter"),
    Column("allocstall", "stalls", "counter"),
    Column("oom_kill", "kills", "counter"),
    Column("load1", "tasks", "gauge", 100),
    Column("runnable", "tasks", "gauge"),
    Column("tasks", "tasks", "gauge"),
    Column("dev_shm_used", "bytes", "gauge"),
    Column("dev_shm_size", "bytes", "gauge"),
    Column("own_cpu", "us", "counter"),
    Column("own_written", "bytes", "counter"),
    Column("own_incidents", "incidents", "gauge"),
)
DISK_COLUMNS = (
    Column("read", "sectors of 512 bytes", "counter"),
    Column("written", "sectors of 512 bytes", "counter"),
    Column("in_flight", "requests", "gauge"),
    Column("busy", "ms", "counter"),
)
DISKS = 4
"""The archive's disk, and the three busiest of the others."""

NO_DISK = (MISSING,) * (1 + len(DISK_COLUMNS))
SECOND = struct.Struct(f"<{len(COLUMNS) + DISKS * len(NO_DISK)}Q")
ORIGIN = struct.Struct("<QQQ")
DISK_NAMES = tuple(column.name for column in DISK_COLUMNS)
INDEX = {column.name: index for index, column in enumerate(COLUMNS)}


class Disk(NamedTuple):
    """A disk by its number, such as ``8:0``, and its figures in the order of `DISK_COLUMNS`."""

    number: str
    read: int
    written: int
    in_flight: int
    busy: int


class Second(NamedTuple):
    """One row: its figures in the order of `COLUMNS`, ``None`` for what the kernel does not have; its disks."""

    figures: tuple[float | int | None, ...]
    disks: tuple[Disk, ...]

    @property
    def at_s(self) -> float:
        """When it was written, in seconds since boot."""
        return self.figures[0] or 0.0

    def figure(self, name: str) -> float | int | None:
        return self.figures[INDEX[name]]

    def by_name(self) -> dict[str, Any]:
        """Return the figures by the columns' names, and ``disks`` by their numbers."""
        names = (column.name for column in COLUMNS)
        disks = {disk.number: dict(zip(DISK_NAMES, disk[1:], strict=True)) for disk in self.disks}
        return {**dict(zip(names, self.figures, strict=True)), "disks": disks}


def read_second(row: bytes) -> Second:
    """Return what *row* holds."""
    numbers = SECOND.unpack(row)
    figures = tuple(map(_figure, COLUMNS, numbers))
    starts = range(len(COLUMNS), len(numbers), len(NO_DISK))
    slots = [numbers[at : at + len(NO_DISK)] for at in starts]
    return Second(figures, tuple(_disk(slot) for slot in slots if slot[0] != MISSING))


def _figure(column: Column, number: int) -> float | int | None:
    if number == MISSING:
        return None
    return number if column.scale == 1 else round(number / column.scale, 3)


def _disk(slot: tuple[int, ...]) -> Disk:
    return Disk(f"{slot[0] >> 32}:{slot[0] & 0xFFFF_FFFF}", *slot[1:])


def disk_key(major: int, minor: int) -> int:
    """Return a disk's number as rows hold it."""
    return major << 32 | minor


def memory_bytes(settings: RecorderSettings) -> int:
    """Return the memory that the recorder needs."""
    return sum(_sizes(settings))


def _sizes(settings: RecorderSettings) -> tuple[int, ...]:
    rounds = int(settings.keep_s // settings.round_s) + 1
    seconds = ring_bytes(settings.rows, SECOND.size)
    return ORIGIN.size, STATE_BYTES, VISITS_BYTES, ring_bytes(rounds, ROUND.size), seconds


class Recording:
    """
    The recorder's memory, as its writer and its readers see it.

    Args:
        memory: `memory_bytes` of it: zeroed, or a recording with the same settings.
    """

    def __init__(self, memory: memoryview, settings: RecorderSettings) -> None:
        self.settings = settings
        pieces, at = [], 0
        for size in _sizes(settings):
            pieces.append(memory[at : at + size])
            at += size
        self._origin = pieces[0]
        self.state = RoundState(pieces[1])
        self.visits = Visits(pieces[2])
        self.rounds = Ring(pieces[3], ROUND.size)
        self.seconds = Ring(pieces[4], SECOND.size)

    def start(self, *, boot_ns: int, wall_ns: int, by_hand: bool) -> None:
        """Note when it began, by both clocks; *by_hand*: for a single run, without a daemon."""
        ORIGIN.pack_into(self._origin, 0, boot_ns, wall_ns, by_hand)

    @property
    def origin(self) -> tuple[int, int, bool]:
        """What `start` was given."""
        boot_ns, wall_ns, by_hand = ORIGIN.unpack_from(self._origin)
        return boot_ns, wall_ns, bool(by_hand)
