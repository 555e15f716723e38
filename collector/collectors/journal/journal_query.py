"""Which lines of the journal are those of the crashed process, of its unit, and of systemd about them."""

from __future__ import annotations

from typing import NamedTuple

from collector.host.procfs import CLOCK_TICKS_PER_S
from collector.model.identity import is_a_claim
from collector.model.marker import SYSTEM_UNIT, Marker

LATE_US = 2_000_000
"""
Last words were received up to 1.6 s after the end. In this time nobody else gets the number of the process but by
32,768 forks (``pid_max``, where it is least), and then only a process of the same user counts.
"""
MAX_UNIT_BYTES = 255  # systemd's UNIT_NAME_MAX

# "Suppressed 123 messages from foo.service", and the message of systemd-coredump.
# Source: systemd's sd-messages.h, and add_matches_for_unit() in src/shared/logs-show.c.
COREDUMP = b"MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1"
COREDUMP_SLICE = rb"_SYSTEMD_SLICE=system-systemd\x2dcoredump.slice"
SUPPRESSED = b"MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e"


class JournalWindow(NamedTuple):
    """
    Which entries may count, in microseconds on CLOCK_MONOTONIC: of *boot*, from *since_us* on.

    *crash_us* is when the crash was noticed; *is_fresh*, that it was just now. *suspended_us* is by how much the clock
    of start times, which counts suspended time, is ahead of CLOCK_MONOTONIC.
    """

    boot: bytes
    since_us: int
    crash_us: int
    suspended_us: int
    is_fresh: bool


class FieldMatch(NamedTuple):
    """
    Entries that have a field and *also* others.

    Anybody may write any field but those that begin with an underscore, which are journald's: so what a unit is said
    to be about counts only from systemd or root.
    """

    field: bytes
    also: tuple[bytes, ...] = ()


class JournalQuery(NamedTuple):
    """
    Entries that meet one of *matches* up to the crash, or of *later* after it; times are on CLOCK_MONOTONIC.

    *whose* they are, for a reason; empty for what journald says of itself. Those *until_us* were only received later:
    they may be as many as those before; without, they are what the unit does next.
    """

    whose: str
    matches: tuple[FieldMatch, ...]
    later: tuple[FieldMatch, ...]
    since_us: int
    until_us: int | None = None


def queries(marker: Marker, window: JournalWindow) -> list[JournalQuery]:
    """
    Return what to look for; nothing if neither a unit nor a process is known for certain.

    A number of a process is its own from its start until its end; without the start, it is anybody's. A line that
    journald had not received yet counts for `LATE_US`, if its sender had the process's uid, too.
    """
    found = []
    process = marker.process
    if process is not None and process.start_time_ticks is not None and not is_a_claim(marker):
        started_us = process.start_time_ticks * (1_000_000 // CLOCK_TICKS_PER_S) - window.suspended_us
        pid = b"_PID=%d" % process.pid
        late = () if marker.uid is None else (FieldMatch(pid, (b"_UID=%d" % marker.uid,)),)
        whose, since = f"process {process.pid}", max(window.since_us, started_us)
        found.append(JournalQuery(whose, (FieldMatch(pid),), late, since, window.crash_us + LATE_US))
    unit, of_user = _unit(marker)
    if unit and len(unit.encode()) <= MAX_UNIT_BYTES:
        by_unit = _of_user_unit(unit.encode(), marker.uid) if of_user else _of_unit(unit.encode())
        dropped = (FieldMatch(SUPPRESSED, (b"_TRANSPORT=driver",)),)
        found.append(JournalQuery(unit, by_unit, by_unit, window.since_us))
        found.append(JournalQuery("", dropped, dropped, window.since_us))
    return found


def suppressed_unit(marker: Marker) -> str:
    """Return the unit whose lines journald limits, by its name in `SUPPRESSED`; empty if there is none."""
    unit, of_user = _unit(marker)
    return f"user@{marker.uid}.service" if of_user else unit or ""


def _unit(marker: Marker) -> tuple[str | None, bool]:
    """
    Return the unit, and whether it is one of a user's own manager; what an ordinary user claims is none.

    Only the system's own unit is known to be what its name says. Any other is a name that a user has chosen.
    """
    system = marker.attributes.get(SYSTEM_UNIT)
    return (system, False) if system or is_a_claim(marker) else (marker.unit, True)


def _of_unit(unit: bytes) -> tuple[FieldMatch, ...]:
    return (
        FieldMatch(b"_SYSTEMD_UNIT=" + unit),
        FieldMatch(b"UNIT=" + unit, (b"_PID=1",)),
        FieldMatch(b"OBJECT_SYSTEMD_UNIT=" + unit, (b"_UID=0",)),
        *_of_coredump(b"COREDUMP_UNIT=" + unit),
    )


def _of_user_unit(unit: bytes, uid: int | None) -> tuple[FieldMatch, ...]:
    """Users and the system may have units of one name: only those of *uid* count; the first is for sessions."""
    if uid is None:
        return ()
    own = b"_UID=%d" % uid
    return (
        FieldMatch(b"_SYSTEMD_UNIT=" + unit, (own,)),
        FieldMatch(b"_SYSTEMD_USER_UNIT=" + unit, (own,)),
        FieldMatch(b"USER_UNIT=" + unit, (own,)),
        *_of_coredump(b"COREDUMP_USER_UNIT=" + unit, b"COREDUMP_UID=%d" % uid),
    )


def _of_coredump(*payloads: bytes) -> tuple[FieldMatch, ...]:
    """systemd-coredump may have become the crashed process's user by then: only its slice shows who it is."""
    field, *also = payloads
    return tuple(FieldMatch(field, (*also, COREDUMP, sender)) for sender in (b"_UID=0", COREDUMP_SLICE))
