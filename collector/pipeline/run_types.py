"""What an incident's run is given, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from collector.model.copying import CopySettings
from collector.model.incident import IncidentState
from collector.model.redaction import Redaction
from collector.model.units import Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What all incidents of one generation of the configuration share."""

    archive: str
    reserve: Reserve
    copy: CopySettings
    redaction: Redaction


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended; if nothing was archived, *incident* is ``None`` and *exit_code* says why."""

    incident: str | None
    state: IncidentState | None = None
    size_bytes: int = 0
    exit_code: int = 0
    reason: str = ""
    hint: str | None = None
