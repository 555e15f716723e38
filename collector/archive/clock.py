"""
The archive's clock and counter, by which it tells age and order: wall clocks are set, ids are labels.

Both are in one small file that is overwritten in place: that needs no space on a full disk and no sync while a crash
is collected. What a power cut takes of it makes incidents younger, never older, and the counter is compared with the
incidents' own numbers at every start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Annotated

import msgspec

from collector.archive import directory, layout
from collector.host.clock import ClockRecord, Moment, moment
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError

LENGTH = 256
"""Bytes of the file, whatever it says: one sector, so that a power cut leaves the old or the new state."""

LOCK_S = 1.0
"""How long to wait for another writer, which needs microseconds; after that both may give the same number."""

STAMP_LIMIT = 64 << 20
"""Longest manifest read, in bytes."""

MAX_SEEN = 1 << 48
"""A higher number is damaged, and not counted on from: it is far below what the file and a `Stamp` may say."""

MAX_CLOCK_S = 20 * 365.25 * 86400.0
"""Seconds in service; more is damaged, and would age every incident out at once."""

ClockSeconds = Annotated[float, msgspec.Meta(ge=0.0, le=MAX_CLOCK_S)]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class ClockState(ClockRecord, frozen=True, kw_only=True):
    """``clock.json``: the seconds that the archive has been in service, and the last number given to an incident."""

    boot_s: Annotated[float, msgspec.Meta(ge=0.0)]
    clock_s: ClockSeconds
    last_number: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]


class Stamp(msgspec.Struct, frozen=True):
    """
    What the archive has stamped on an incident; earlier releases stamped nothing.

    *archive_clock_s* is ``None`` if it is not known: the incident is not sealed, or its manifest cannot be read.
    *owner*, *sealed_bytes* and *over_budget* are as in the manifest.
    """

    number: Annotated[int, msgspec.Meta(ge=0, le=1 << 51)] = 0
    archive_clock_s: ClockSeconds | None = 0.0
    owner: str = ""
    sealed_bytes: Size | None = None
    over_budget: str = ""


def read(archive_fd: int, now: Moment | None = None) -> ClockState:
    """
    Return what clock and counter show *now*; a file that is lost is made up from the incidents.

    Their second-latest stamp is the clock: a single damaged one ages no other.
    """
    now = now or moment()
    try:
        state = decode(directory.read(layout.CLOCK, archive_fd, limit=LENGTH), ClockState)
    except (ArchiveError, MalformedError, OSError):
        stamps = list(_stamps(archive_fd))
        latest_s = sorted(stamp.archive_clock_s or 0.0 for stamp in stamps)[-2:]
        state = ClockState(
            boot_id=now.boot_id,
            boot_s=now.boot_s,
            clock_s=latest_s[0] if latest_s else 0.0,
            last_number=max((stamp.number for stamp in stamps if stamp.number <= MAX_SEEN), default=0),
        )
    return msgspec.structs.replace(state, boot_id=now.boot_id, boot_s=now.boot_s, clock_s=state.at(now))


def advance(archive_fd: int, *, new: int = 0, seen: int = 0, now: Moment | None = None) -> ClockState:
    """
    Store what clock and counter show *now*, and return it; a file that cannot be written is not worth an incident.

    Args:
        archive_fd: The archive's directory.
        new: How many numbers to take: the last of them is the result's *last_number*.
        seen: A number that an incident already has.
        now: The present moment, if not the real one.
    """
    with _locked(archive_fd) as file:
        state = read(archive_fd, now)
        last = max(state.last_number, seen if seen <= MAX_SEEN else 0)
        state = msgspec.structs.replace(state, last_number=last + new)
        if file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(file, msgspec.json.encode(state).ljust(LENGTH), 0)
                os.ftruncate(file, LENGTH)  # whatever was there before
    return state


def stamp_of(incident_fd: int) -> Stamp:
    """Return the stamp of the incident in *incident_fd*, as far as its manifest or header can be read."""
    if (stamp := _read_stamp(layout.MANIFEST, incident_fd)) is not None:
        return stamp
    header = _read_stamp(layout.HEADER, incident_fd) or Stamp()
    return msgspec.structs.replace(header, archive_clock_s=None, sealed_bytes=None)


def number_of(name: str, archive_fd: int) -> int:
    """Return the number of the incident in the directory *name*; 0 if it has none, or cannot be read."""
    with contextlib.suppress(OSError), directory.opened(name, archive_fd) as fd:
        header = _read_stamp(layout.HEADER, fd)  # small; the manifest of a large incident has megabytes
        return (header or stamp_of(fd)).number
    return 0


def _stamps(archive_fd: int) -> Iterator[Stamp]:
    for name in filter(layout.is_id, os.listdir(archive_fd)):
        with contextlib.suppress(OSError), directory.opened(name, archive_fd) as fd:
            yield stamp_of(fd)


def _read_stamp(name: str, incident_fd: int) -> Stamp | None:
    with contextlib.suppress(ArchiveError, MalformedError, OSError):
        return decode(directory.read(name, incident_fd, limit=STAMP_LIMIT), Stamp)
    return None


@contextlib.contextmanager
def _locked(archive_fd: int) -> Iterator[int | None]:
    """Open the file and keep other writers out during the block; yield ``None`` if it cannot be opened."""
    with contextlib.ExitStack() as stack:
        file = None
        with contextlib.suppress(OSError, ArchiveError):
            file = stack.enter_context(directory.opened_own(layout.CLOCK, directory.REPLACE_FLAGS, archive_fd))
            _lock(file, time.monotonic() + LOCK_S)
        yield file


def _lock(file: int, until_s: float) -> None:
    while time.monotonic() < until_s:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_S / 100)
