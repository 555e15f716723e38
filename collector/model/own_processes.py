"""The collector's own processes: their crashes are recorded, and nothing is collected."""

from __future__ import annotations

import msgspec

from collector.model.marker import Marker, MarkerKind

UNIT = "collector.service"


class OwnProcesses(msgspec.Struct, frozen=True, kw_only=True):
    """The collector's own *pids*, past ones included, and *units*: their crashes never open an incident."""

    pids: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()

    def is_about(self, marker: Marker) -> str | None:
        """Return why *marker* is about the collector itself; ``None`` if it is not."""
        if marker.process is not None and not marker.doubtful and marker.process.pid in self.pids:
            return f"process {marker.process.pid} is the collector's own"
        by_the_kernel = marker.kind in {MarkerKind.EXIT, MarkerKind.DUMP}
        parent = marker.attributes.get("parent") if by_the_kernel else None
        if parent is not None and parent in {str(pid) for pid in self.pids}:
            return f"a child of process {parent}, which is the collector's own"
        if marker.unit in self.units:
            return f"{marker.unit} is the collector's own"
        return None
