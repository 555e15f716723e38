"""What a run of an incident is given."""

from __future__ import annotations

from dataclasses import dataclass

from collector.model.copying import CopySettings
from collector.model.redaction import Redaction
from collector.model.units import Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What all incidents of one generation of the configuration share."""

    archive: str
    reserve: Reserve
    copy: CopySettings
    redaction: Redaction
