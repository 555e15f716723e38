"""What a run of an incident is given, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from collector.model.copying import CopySettings
from collector.model.incident import IncidentState
from collector.model.redaction import Redaction
from collector.model.units import Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What holds for every incident of one configuration generation."""

    archive: str
    reserve: Reserve
    copy: CopySettings
    redaction: Redaction


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended; *incident* is ``None`` and *exit_code* says why if nothing was archived."""

    incident: str | None
    state: IncidentState | None = None
    size_bytes: int = 0
    exit_code: int = 0
    reason: str = ""
    hint: str | None = None


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker does all that can wait: niceness, and I/O class (a key of `process.IO_CLASSES`)."""

    nice: int = 10
    io_class: str = "idle"
