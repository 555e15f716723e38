"""
What became of handing incidents over: a record beside each one, because an incident itself does not change.

It is made with the incident's directory, of which it shares the fate, and so outlives every kill. Its one block is
reserved then, so that a full disk cannot keep a success from being recorded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import msgspec

from collector.archive import clock, directory, layout
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.handover import HandoverRecord, HandoverState, WaitingHandover
from collector.model.owners import UNKNOWN
from collector.model.shares import FairChoice

LENGTH = 4096
"""Of the file: it is overwritten in place, in one piece."""

SHORTEST = 64
DAMAGED = "its record is damaged: whether it was handed over is not known"


def owe(incident: str, archive_fd: int) -> None:
    """Record that an incident is to be handed over once it is sealed."""
    directory.allocate(incident + layout.HANDOVER, LENGTH, archive_fd)


def read(incident: str, archive_fd: int) -> HandoverRecord | None:
    """Return what became of handing an incident over; ``None`` if that was never asked for."""
    try:
        text = directory.read(incident + layout.HANDOVER, archive_fd, limit=LENGTH)
        return decode(text, HandoverRecord) if text else HandoverRecord()
    except FileNotFoundError:
        return None
    except (ArchiveError, MalformedError, OSError):
        # Not tried again: whoever was sent it once must not get it twice.
        return HandoverRecord(state=HandoverState.FAILED, reason=DAMAGED)


def write(incident: str, record: HandoverRecord, archive_fd: int) -> None:
    """
    Replace a record durably; the end of the output and of the reason is kept as far as there is room.

    Raises:
        OSError: From the disk, or if the record is gone: somebody has deleted the incident.
        ArchiveError: If it is not the collector's own file.
    """
    length = LENGTH
    while len(text := msgspec.json.encode(record)) >= LENGTH and length > SHORTEST:
        length //= 2
        record = msgspec.structs.replace(record, output=record.output[-length:], reason=record.reason[:length])
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with directory.opened_own(incident + layout.HANDOVER, flags, archive_fd) as fd:
        os.pwrite(fd, text.ljust(LENGTH - 1) + b"\n", 0)
        os.fdatasync(fd)


def forget(incident: str, archive_fd: int) -> bool:
    """Remove the record of an incident that is deleted; return whether it was still waiting to be handed over."""
    record = read(incident, archive_fd)
    with contextlib.suppress(OSError):
        os.unlink(incident + layout.HANDOVER, dir_fd=archive_fd)
    return record is not None and record.state is HandoverState.WAITING


def forget_deleted(archive_fd: int) -> None:
    """Remove the records of incidents that are not there: a kill came between the two removals."""
    for incident in _recorded(archive_fd):
        # In the order in which an incident is renamed, so that one under way is not missed.
        stages = (incident + layout.OPENING, incident + layout.PARTIAL, incident)
        if not any(_exists(name, archive_fd) for name in stages):
            forget(incident, archive_fd)


def waiting(archive_fd: int, *, limit: int) -> tuple[list[WaitingHandover], int]:
    """Return the sealed incidents that are still to be handed over, the oldest of each owner, and how many more."""
    oldest: FairChoice[tuple[int, WaitingHandover]] = FairChoice(limit, lambda one: -one[0])
    for incident in _recorded(archive_fd):
        record = read(incident, archive_fd)
        if record is not None and record.state is HandoverState.WAITING:
            with contextlib.suppress(OSError), directory.opened(incident, archive_fd) as fd:
                stamp = clock.stamp_of(fd)
                owner = stamp.owner or UNKNOWN
                found = WaitingHandover(incident=incident, owner=owner, tries=record.tries)
                oldest.add((stamp.number, found), owner)
    return [found for _, found in oldest.chosen()], oldest.left_out.total()


def _recorded(archive_fd: int) -> Iterator[str]:
    return (known for name in sorted(os.listdir(archive_fd)) if (known := layout.id_before(name, layout.HANDOVER)))


def _exists(name: str, archive_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=archive_fd, follow_symlinks=False)
    except OSError:
        return False
    return True
