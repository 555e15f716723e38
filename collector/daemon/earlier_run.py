"""What an earlier run of the daemon left: markers that it had not finished, and incidents that it had begun."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from collector.archive.ledger_entry import LedgerEntry
from collector.model.case import Fate
from collector.model.incident import IncidentState
from collector.model.marker import MarkerKind

MAX_TRIES = 2
"""A marker whose incident was killed before any of it was on disk is retried once."""


class MarkerEnd(NamedTuple):
    """The final fate of a marker, its incident if there is one, and why."""

    fate: Fate
    incident: str | None
    reason: str


@dataclass(slots=True)
class EarlierRun:
    """
    Args:
        archive: Its path.
        left: The incidents that can be continued.
    """

    archive: str
    left: frozenset[str] = frozenset()
    sealed: dict[str, Fate] = field(default_factory=dict)
    """The fates of the incidents that were sealed for it."""
    continues: dict[int, str] = field(default_factory=dict)
    """The cases that go on with an incident, by their numbers."""

    def add_sealed(self, states: Mapping[str, IncidentState]) -> None:
        self.sealed.update((incident, fate_of(state)) for incident, state in states.items())

    def end_of(self, entry: LedgerEntry) -> MarkerEnd | None:
        """Return the final fate of a marker; ``None`` if it is to be collected."""
        incident = entry.incident
        if incident is not None and self.sealed.get(incident) is Fate.INTERRUPTED:
            return MarkerEnd(Fate.INTERRUPTED, incident, "the daemon was killed")
        if incident is not None and os.path.exists(os.path.join(self.archive, incident)):
            return MarkerEnd(Fate.COLLECTED, incident, "")
        if entry.marker.kind is MarkerKind.MANUAL:  # the client is gone, and so are the steps it asked for
            return MarkerEnd(Fate.FAILED, None, "the daemon ended before it was done")
        return MarkerEnd(Fate.FAILED, None, f"tried {entry.tries} times") if entry.tries >= MAX_TRIES else None


def fate_of(state: IncidentState | None) -> Fate:
    """Return what an incident's state means for its markers."""
    return Fate.INTERRUPTED if state is IncidentState.INTERRUPTED else Fate.COLLECTED
