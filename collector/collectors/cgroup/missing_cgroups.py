"""What is missing of a crash's cgroups, and what that makes of the step."""

from __future__ import annotations

from dataclasses import dataclass, field

from collector.collectors.base import names_of
from collector.collectors.cgroup.cgroup_selection import Selection
from collector.collectors.cgroup.level_reader import TOTAL_BYTES, LevelReader
from collector.collectors.cgroup.levels import ELSEWHERE
from collector.collectors.cgroup.summary import is_confirmed, shown
from collector.model.artifact import NotApplicable, Truncated
from collector.model.marker import Marker, MarkerKind
from collector.model.text import escape_name


@dataclass(slots=True)
class MissingCgroups:
    """What is *gone* or *unknown* is missing only if the process was given by hand; *reasons* always count."""

    reasons: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add(self, marker: Marker, selection: Selection | None, reader: LevelReader) -> None:
        """Take in what became of one process's cgroups."""
        if selection is None:
            pid = f"process {marker.process.pid}" if marker.process else "the process"
            self.unknown.append(f"nothing tells the cgroup: {pid} was not seen, and the marker names no unit")
            return
        if not selection.chains:
            lost = selection.lost and f"nothing tells the cgroup: {selection.lost}"
            self.unknown.append(lost or "its cgroups are not mounted here")
            return
        for one in selection.chains:
            if one.missing:
                (self.reasons if one.missing == ELSEWHERE else self.gone).append(f"{shown(one)} is {one.missing}")
        removed = {level.path for level in reader.removed if level.number == 0 and level.place == selection.place}
        self.gone += [f"{escape_name(path)} was removed while it was read" for path in sorted(removed)]
        doubtful = {one.member.path for one in selection.chains if not one.missing and not is_confirmed(selection, one)}
        if doubtful:
            self.reasons.append(f"{names_of(sorted(doubtful))} may be that of a later run: its inode is not known")
        if reader.left <= 0:
            self.reasons.append(f"only the first {TOTAL_BYTES >> 10} KiB were read")

    def say(self, marker: Marker, others: int) -> None:
        """Raise `Truncated` or `NotApplicable` if anything is missing; of *others* beside the first all were tried."""
        lost = list(dict.fromkeys([*self.gone, *self.unknown]))
        reasons = [*self.reasons, *(lost if marker.kind is MarkerKind.MANUAL else [])]
        if len(marker.also) > others:
            reasons.append(f"{len(marker.also) - others} more than {others + 1} processes")
        if reasons:
            raise Truncated("; ".join(dict.fromkeys(reasons)))
        if lost:
            raise NotApplicable("; ".join(lost) + ("; its parents are here" if self.gone else ""))
