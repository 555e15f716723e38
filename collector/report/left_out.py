"""What an export that leaves out steps tells of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from msgspec.structs import replace

from collector.archive.read import UnderWay
from collector.model.incident import Manifest
from collector.model.text import printable
from collector.report.story import Missing

T = TypeVar("T", bound=Manifest | UnderWay)

LEFT_OUT = "left out of this export"
BULK = frozenset({"core", "shm"})
"""Collectors whose files are left out for their size: the frames of a core and the names of segments are told."""


def without_steps(incident: T, left_out: Collection[str]) -> T:
    """Return *incident* as if the steps *left_out* had not been; those of `BULK` collectors stay."""
    untold = {step.id for step in incident.steps if step.id in left_out and step.collector not in BULK}
    if not untold:
        return incident
    steps = tuple(step for step in incident.steps if step.id not in untold)
    return replace(incident, steps=steps, planned=tuple(step for step in incident.planned if step not in untold))


def left_out_steps(left_out: Collection[str]) -> Missing:
    """Return what is missing because nobody wanted it: one line, also if it is all but one step."""
    return Missing(step=", ".join(printable(step, limit=80) for step in sorted(left_out)), status=LEFT_OUT, reason="")
