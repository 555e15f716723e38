"""What others than root may know of the archive: its newest incidents, without reasons, command lines and paths."""

from __future__ import annotations

import os
from itertools import islice

import msgspec

from collector.archive import directory, layout
from collector.archive.read import ArchiveReader, sealed_summary
from collector.archive.summary import IncidentSummary
from collector.model.errors import ArchiveError
from collector.model.text import printable
from collector.runner.protocol import Summarize
from collector.runner.replies import Done

MOST = 100
"""Incidents that are summarized; each takes 20 ms if its manifest has 5,000 artifacts."""

LONGEST_MANIFEST = 8 << 20
ANSWER_BYTES = 48 << 10
"""Of all summaries: an answer is one message."""

NAME_SHOWN = 64


class ListOfIncidents(msgspec.Struct, frozen=True, kw_only=True):
    """The *incidents*, newest last; *left_out* is how many more there are."""

    incidents: tuple[IncidentSummary, ...]
    left_out: int


def summarize(job: Summarize) -> tuple[Done, int]:
    """Return a descriptor of a memory file that holds a `ListOfIncidents` in JSON."""
    found: list[IncidentSummary] = []
    left = ANSWER_BYTES
    with ArchiveReader(job.archive) as archive:
        ids = archive.ids()
        for incident in islice(reversed(ids), MOST):
            if (summary := _summary(archive, incident)) is None:
                continue
            left -= len(msgspec.json.encode(summary))
            if left < 0:
                break
            found.append(summary)
    answer = ListOfIncidents(incidents=tuple(reversed(found)), left_out=len(ids) - len(found))
    fd = os.memfd_create("collector-summaries", os.MFD_CLOEXEC)
    directory.write_all(fd, msgspec.json.encode(answer))
    return Done(), fd


def _summary(archive: ArchiveReader, incident: str) -> IncidentSummary | None:
    """Return what may be known of an incident; ``None`` if it cannot be read, or is too large to be read for this."""
    try:
        with archive.incident(incident) as fd, directory.opened_file(layout.MANIFEST, fd) as file:
            if os.fstat(file).st_size > LONGEST_MANIFEST:
                return None
            summary = sealed_summary(fd, incident)
    except (ArchiveError, OSError):
        return None
    comm = printable(summary.comm, limit=NAME_SHOWN) if summary.comm else None
    beyond = "over budget" if summary.over_budget else ""
    missing = tuple(msgspec.structs.replace(one, reason="") for one in summary.missing)
    return msgspec.structs.replace(
        summary, reason="", owner="", comm=comm, exe=None, core="", over_budget=beyond, missing=missing
    )
