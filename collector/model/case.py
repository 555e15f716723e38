"""A case, which is a crash on its way to an incident, and the fates of a marker."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from collector.model.budgets import Spent
from collector.model.identity import COMM_LENGTH, HOST_MOUNTS, INVOCATION, is_about_a_process
from collector.model.marker import DUMP, HELD_DUMP, SYSTEM_UNIT, Marker, MarkerKind, dump_ended
from collector.model.owners import LANE, ROOT, Owners

# Signals whose default action is to dump core. Source: signal(7)
CORE_SIGNALS = frozenset({3, 4, 5, 6, 7, 8, 11, 24, 25, 31})
# Most markers that a case holds: the first and the newest. The ledger accounts for every one.
MAX_MARKERS = 16


class Fate(enum.StrEnum):
    """What became of a marker."""

    RECORDED = "recorded"
    QUEUED = "queued"
    JOINED = "joined"
    UNATTRIBUTED = "unattributed"
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


PART_FATES = (Fate.JOINED, Fate.UNATTRIBUTED)
"""Of markers that opened no case of their own."""


@dataclass(slots=True, eq=False, kw_only=True)
class Case:
    """
    One crash on its way to an incident; *id* is the number of its first marker in the ledger.

    *owner* is who pays, and *spent* what was paid, once it is queued. *over_budget* is which budget was exceeded, if it
    is collected all the same, without bulk. With *given_up* it made room for another case, and is not collected.
    """

    id: int
    pipeline: str
    opened_s: float
    ready_s: float
    executable: str
    owner: str
    markers: list[Marker]
    spent: Spent | None = None
    over_budget: str = ""
    incident: str | None = None
    done: bool = False
    given_up: bool = False

    @property
    def awaits_late_core(self) -> bool:
        """Whether a core that arrives now is still to be collected: its incident is over, and was not without bulk."""
        return self.done and not (self.given_up or self.over_budget) and not brings_core(self.marker)

    @property
    def is_crash(self) -> bool:
        """Whether it is about the crash of a process, rather than a run by hand or an event of the machine."""
        return self.markers[0].kind is not MarkerKind.MANUAL and is_about_a_process(self.markers[0])

    @property
    def marker(self) -> Marker:
        """Everything that its markers know, as one marker."""
        return merge(self.markers)

    def add(self, marker: Marker, now_s: float) -> None:
        """Add a marker; beyond `MAX_MARKERS`, keep the first, a core and the newest."""
        self.markers.append(marker)
        if len(self.markers) > MAX_MARKERS:
            self.markers.remove(self._least())
        if marker.attributed and not awaits_core(self.marker):
            self.ready_s = min(self.ready_s, now_s)

    def _least(self) -> Marker:
        """Return the marker to give up: those that say most about the crash outlast the repetitions of it."""
        rest = self.markers[1:]
        uncertain = (kept for kept in rest if not kept.attributed)
        without_core = (kept for kept in rest if kept.core is None)
        return next(uncertain, next(without_core, self.markers[2]))

    def end_dump(self, reason: str) -> None:
        """Enter why the kernel does not hold the process any more."""
        self.markers[:] = [dump_ended(marker, reason) for marker in self.markers]

    def end(self) -> None:
        """Keep only what tells whether a later marker is about the same crash."""
        self.done, self.markers = True, [_identity_of(self.marker)]


def executable(marker: Marker) -> str:
    """
    Return what budgets are kept under: the executable, else the command or unit, with the real uid.

    A program that its set-uid bit made root may have any name, but not any path; a path means another file in another
    mount namespace.
    """
    name = marker.exe or (marker.comm or "")[:COMM_LENGTH]
    uid = "?" if marker.uid is None else marker.uid
    mounts = marker.attributes.get("mount_namespace", HOST_MOUNTS) if marker.exe else HOST_MOUNTS
    # systemd reports a failed unit without a process: two units are two crashes.
    shown = f"{name or marker.unit or f'<{marker.trigger}>'} (uid {uid})"
    return shown if mounts == HOST_MOUNTS else f"{shown} in {mounts}"


def owner_of(marker: Marker, owners: Owners) -> str:
    """
    Return who pays for what *marker* reports.

    That is the machine itself for its own events, and for what root says of a unit without saying whose it is.
    """
    unit = marker.attributes.get(SYSTEM_UNIT)
    if marker.uid is None and unit not in owners.units and (unit or not is_about_a_process(marker)):
        return f"{ROOT}{LANE}{executable(marker)}"
    return owners.of(marker.uid, unit=unit, lane=executable(marker))


def _identity_of(marker: Marker) -> Marker:
    """Return the part of a marker that `identity.agreement` goes by, in little memory."""
    core = marker.core
    return msgspec.structs.replace(
        marker,
        reason="",
        comm=marker.comm and marker.comm[:COMM_LENGTH],
        thread_comm=marker.thread_comm and marker.thread_comm[:COMM_LENGTH],
        exe=marker.exe and marker.exe.rpartition("/")[2][:COMM_LENGTH],
        core=None if core is None else msgspec.structs.replace(core, path="", head="", handle="", watched=()),
        also=(),
        joined=(),
        attributes={key: marker.attributes[key] for key in ("event", DUMP, *INVOCATION) if key in marker.attributes},
    )


def merge(markers: Iterable[Marker]) -> Marker:
    """
    Return the first marker, with what it does not know filled in from those that are attributed to its crash.

    A damaged record may say of none that it is.
    """
    found = list(markers)
    first, *others = [marker for marker in found if marker.attributed] or found
    known = {name: getattr(first, name) for name in Marker.__struct_fields__}
    for marker in others:
        for name in (
            "thread",
            "inner_pid",
            "image",
            "exe",
            "uid",
            "signal",
            "exit_status",
            "unit",
            "core",
            "noticed_ticks",
        ):
            if known[name] is None:
                known[name] = getattr(marker, name)
        # Where the process was not seen, the name may be that of its thread.
        unseen = known["process"] is None or known["process"].start_time_ticks is None
        if marker.process is not None and unseen and (known["process"] is None or not marker.doubtful):
            names = [marker.comm, known["comm"], known["thread_comm"], marker.thread_comm]
            known["comm"] = next(filter(None, names), None)
            known["thread_comm"] = next((name for name in names[1:] if name not in (None, known["comm"])), None)
            known["process"], known["doubtful"] = marker.process, marker.doubtful
        else:
            known["comm"] = known["comm"] or marker.comm
            other = marker.comm if marker.comm != known["comm"] else None
            known["thread_comm"] = known["thread_comm"] or marker.thread_comm or other
        # Whether there is a core is known best at the end.
        dumped = {key: value for key, value in marker.attributes.items() if key == "core_dumped"}
        known["attributes"] = marker.attributes | known["attributes"] | dumped
        known["joined"] = (*known["joined"], marker.trigger)
    return Marker(**known)


def brings_core(marker: Marker) -> bool:
    """Return whether the marker comes with a core: as a file, or from the kernel."""
    return marker.core is not None or marker.attributes.get(DUMP) == HELD_DUMP


def awaits_core(marker: Marker) -> bool:
    """Return whether the marker announces a core that is still to come, as a file."""
    if marker.core is not None or marker.kind is MarkerKind.MANUAL or DUMP in marker.attributes:
        return False
    dumped = marker.attributes.get("core_dumped")
    return dumped in {"pending", "yes"} or (marker.signal in CORE_SIGNALS and dumped != "no")
