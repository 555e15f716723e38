"""What incidents in progress are doing: their bytes, and how fast these come."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from collector.archive.summary import IncidentSummary
from collector.cli.text import size
from collector.model.errors import CollectorError


class RunProgress(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where an incident is: *step* and *waiting_for* as the daemon says, empty if it does not answer.

    *bytes_per_s* is the average since it was opened.
    """

    step: str = ""
    waiting_for: str = ""
    seconds: float = 0.0
    bytes_per_s: float = 0.0

    @property
    def said(self) -> str:
        """Return it in a few words."""
        rate = f"{size(self.bytes_per_s)}/s for {self.seconds:.0f} s"
        waits = f"waits: {self.waiting_for}" if self.waiting_for else ""
        return "; ".join(filter(None, (self.step and f"now {self.step}", waits, rate)))


def running_now(config: str | None, incidents: Iterable[IncidentSummary]) -> dict[str, RunProgress]:
    """Return where those *incidents* are, all of which are in progress."""
    found = list(incidents)
    if not found:
        return {}
    told = _told(config)
    return {one.id: _progress(one, told.get(one.id)) for one in found}


def _progress(one: IncidentSummary, told: RunProgress | None) -> RunProgress:
    # The wall clock may have been set since it was opened; the daemon does not go by it.
    told = told or RunProgress(seconds=max(0.0, time.time() - one.started_s))
    return msgspec.structs.replace(told, bytes_per_s=one.size_bytes / told.seconds if told.seconds else 0.0)


def _told(config: str | None) -> dict[str, RunProgress]:
    """Return what the daemon says of its incidents; nothing without one."""
    from collector.config.load import find  # noqa: PLC0415 - only while something is in progress
    from collector.daemon.requests import runtime_directory, status_of  # noqa: PLC0415

    try:
        status = status_of(runtime_directory(find(config)))
    except CollectorError:
        return {}
    return {
        one.incident: RunProgress(step=one.step or "", waiting_for=one.waiting_for or "", seconds=one.seconds)
        for one in status.running
    }
