"""What a run of an incident is told, and what it says of itself at the end."""

from __future__ import annotations

from dataclasses import dataclass

from collector.model.copying import CopySettings
from collector.model.incident import IncidentState
from collector.model.redaction import Redaction
from collector.model.units import Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for every incident of one configuration generation."""

    archive: str
    reserve: Reserve
    copy: CopySettings
    redaction: Redaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended; *incident* is ``None`` and *exit_code* says why if nothing was archived."""

    incident: str | None
    state: IncidentState | None = None
    size_bytes: int = 0
    exit_code: int = 0
    reason: str = ""
    hint: str | None = None
