"""What the log says of the crash that an event is about."""

from __future__ import annotations

from collector.model.identity import is_a_claim
from collector.model.marker import SYSTEM_UNIT, Marker, MarkerKind
from collector.model.text import printable

REASON_LENGTH = 200


def crash_fields(marker: Marker) -> dict[str, object]:
    """
    Return what is known of a crash, by the names that it has in JSON lines.

    *unit* is the system's, as the kernel or root says, and *user_unit* one of a user's own manager. *claimed* is there
    if the process is only what an ordinary user says; *crash_at_s*, since the epoch, is not if a file's name says it.
    """
    system, claimed = marker.attributes.get(SYSTEM_UNIT), is_a_claim(marker)
    fields: dict[str, object] = {
        "pid": marker.process.pid if marker.process else None,
        "comm": marker.comm,
        "exe": marker.exe,
        "uid": marker.uid,
        "signal": marker.signal,
        "exit_status": marker.exit_status,
        "unit": system,
        "user_unit": None if claimed or marker.unit == system else marker.unit,
        "crash_at_s": None if marker.doubtful else marker.at_s,
        "occasion": _occasion(marker),
        "claimed": claimed or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _occasion(marker: Marker) -> str | None:
    """Return what the marker is about if it does not say how a process ended."""
    if marker.kind is MarkerKind.MANUAL:
        return "a run by hand"
    if marker.signal is not None or marker.exit_status is not None:
        return None
    return printable(marker.reason, limit=REASON_LENGTH) or None
