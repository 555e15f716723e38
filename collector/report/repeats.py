"""How often the same happened: by the other incidents of the archive, and by the ledger."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import NamedTuple

from collector.archive.ledger_reader import LedgerReader
from collector.archive.read import ArchiveReader
from collector.model.case import Fate, executable
from collector.model.errors import ArchiveError
from collector.model.marker import Marker
from collector.model.text import printable
from collector.report.signatures import core_identity
from collector.report.story import Repeats
from collector.report.text import utc

MAX_COMPARED = 500
"""Incidents whose signature is compared: 60 us each."""

ONLY_RECORDED = (Fate.SUPPRESSED, Fate.HELD, Fate.QUEUED, Fate.RECORDED, Fate.FAILED)


class _Known(NamedTuple):
    """What the ledger has of one executable: its incidents, and how many crashes, or more, were only recorded."""

    incidents: set[str]
    recorded: int
    at_least: bool


def repeats(
    archive: ArchiveReader, incident: str, marker: Marker, *, signature: str, summary: str, ledger: bool
) -> Repeats | None:
    """
    Return how often this happened; ``None`` if that is not known.

    Args:
        archive: The archive.
        incident: The incident's id.
        marker: All its markers, as one.
        signature: Of its crash; if empty, what ran the same program counts.
        summary: The path of its ``core.json``.
        ledger: Whether to look into the ledger.
    """
    name = executable(marker)
    known = _known(archive, name) if ledger else None
    if not signature and known is None:
        return None
    there = sorted({*archive.names(), incident})  # it may be in progress
    among = [one for one in there if known is None or one in known.incidents or one == incident]
    if signature:
        # The same pipeline puts their summaries at the same place.
        newest = among[-MAX_COMPARED:]
        among = [
            one for one in newest if one == incident or core_identity(archive, one, summary).signature == signature
        ]
    earlier = [one for one in among if one < incident]
    times = [utc(_label_s(one)) for one in among]
    return Repeats(
        by="signature" if signature else "executable",
        key=printable(signature or name, limit=200),
        count=len(among),
        number=len(earlier) + 1,
        first=times[0],
        last=times[-1],
        recorded=known.recorded if known else 0,
        at_least=known is not None and known.at_least,
    )


def _known(archive: ArchiveReader, name: str) -> _Known | None:
    with contextlib.suppress(ArchiveError), LedgerReader(archive) as ledger:
        if ledger.exists:
            incidents, fates, uncertain = ledger.of_executable(name)
            recorded = sum(fates.get(fate, 0) for fate in ONLY_RECORDED)
            return None if ledger.problems else _Known(incidents, recorded, not uncertain.isdisjoint(ONLY_RECORDED))
    return None


def _label_s(incident: str) -> float:
    """Return the time in an id, in seconds since the epoch."""
    try:
        return datetime.strptime(incident[:22], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
