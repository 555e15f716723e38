"""A case, which is a crash on its way to an incident, and the fates of a marker."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from collector.model.marker import Marker, MarkerKind

# Signals whose default action is to dump core. Source: signal(7)
CORE_SIGNALS = frozenset({3, 4, 5, 6, 7, 8, 11, 24, 25, 31})
COMM_LENGTH = 15  # TASK_COMM_LEN without the terminating zero: some sources know no more of a name
# Most markers that a case holds: the first and the newest. The ledger has a row for every one.
MAX_MARKERS = 16


class Fate(enum.StrEnum):
    """What became of a marker."""

    RECORDED = "recorded"
    QUEUED = "queued"
    JOINED = "joined"
    HELD = "held"
    SUPPRESSED = "suppressed"
    REFUSED = "refused"
    COLLECTED = "collected"
    INTERRUPTED = "interrupted"
    FAILED = "failed"

    @property
    def open(self) -> bool:
        """Whether the marker is not dealt with yet."""
        return self in {Fate.RECORDED, Fate.QUEUED, Fate.HELD}


@dataclass(slots=True, eq=False, kw_only=True)
class Case:
    """One crash on its way to an incident; *id* is the number of its first marker in the ledger."""

    id: int
    pipeline: str
    opened_s: float
    ready_s: float
    executable: str
    markers: list[Marker]
    spent_s: float = 0.0
    incident: str | None = None
    done: bool = False

    @property
    def marker(self) -> Marker:
        """Everything that its markers know, as one marker."""
        return merge(self.markers)

    def add(self, marker: Marker, now_s: float) -> None:
        """Add a marker; beyond `MAX_MARKERS`, keep the first and the newest."""
        self.markers.append(marker)
        if len(self.markers) > MAX_MARKERS:
            # The markers that say most about the crash must not be displaced by repetitions of it.
            keep = 1 if self.markers[1].core is None or self.markers[0].core is not None else 2
            del self.markers[keep]
        if marker.core is not None:
            self.ready_s = min(self.ready_s, now_s)


def executable(marker: Marker) -> str:
    """Return the name that budgets are kept under: that of the executable, command or unit, with the uid."""
    name = (marker.exe.rpartition("/")[2] if marker.exe else marker.comm or "")[:COMM_LENGTH]
    uid = "?" if marker.uid is None else marker.uid
    # systemd reports a failed unit without a process: two units are two crashes.
    return f"{name or marker.unit or f'<{marker.trigger}>'} (uid {uid})"


def merge(markers: Iterable[Marker]) -> Marker:
    """Return the first marker, with what it does not know filled in from those after it."""
    first, *others = markers
    known = {name: getattr(first, name) for name in Marker.__struct_fields__}
    for marker in others:
        same = marker.process is None or known["process"] is None or marker.process.pid == known["process"].pid
        if not same:
            continue  # another crash of the same executable
        for name in ("comm", "exe", "uid", "signal", "exit_status", "unit", "core"):
            if known[name] is None:
                known[name] = getattr(marker, name)
        if known["process"] is None or (marker.process and known["process"].start_time_ticks is None):
            known["process"] = marker.process or known["process"]
        known["attributes"] = {**marker.attributes, **known["attributes"]}
        known["joined"] = (*known["joined"], marker.trigger)
    return Marker(**known)


def awaits_core(marker: Marker) -> bool:
    """Return whether the marker announces a core that is still being written."""
    if marker.core is not None or marker.kind not in {MarkerKind.EXIT, MarkerKind.KERNEL_LOG}:
        return False
    dumped = marker.attributes.get("core_dumped")
    return dumped == "pending" or (marker.signal in CORE_SIGNALS and dumped != "no")
