"""
What supervisor and worker say to each other over a socket pair of whole messages.

Jobs are pickled: they go from the supervisor to a process that it forked itself. Replies come from
a process that reads hostile files, so they are JSON of a fixed form and bounded in length.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from collector.archive.retention import Rules
from collector.collectors.base import Collector
from collector.model.copying import CopySettings
from collector.model.incident import Header, IncidentState, StepEnd, StepStatus
from collector.model.marker import Marker
from collector.model.pressure import Budget, Limits
from collector.model.redaction import Redaction
from collector.model.units import Reserve

MESSAGE_LIMIT = 65_536
"""Longest reply in bytes; the kernel keeps one whole in a default socket buffer of 208 KiB."""

JOB, INTERRUPT, STOP = b"job", b"interrupt", b"stop"
"""Sent during a job: end it if it can wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Open an incident; the reply carries a descriptor that holds its lock."""

    archive: str
    header: Header
    reserve: Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Run one collector and write what it yields."""

    archive: str
    incident: str
    step: str
    collector: Collector
    marker: Marker
    deadline_s: float
    limits: Limits
    budget: Budget
    reserve_bytes: int
    copy: CopySettings
    redaction: Redaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Append a step's end to the journal."""

    archive: str
    incident: str
    end: StepEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Give an incident its manifest and its final name; *ends* are all steps, should the journal lack some."""

    archive: str
    incident: str
    ended_s: float
    interrupted: bool
    markers: tuple[Marker, ...]
    ends: tuple[StepEnd, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recover:
    """Seal what a killed run left behind; wait so long for its workers to die, who may still sync a disk."""

    archive: str
    now_s: float
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Delete what retention does not keep."""

    archive: str
    rules: Rules
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give back the memory of a process that was killed and does not die."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDigests:
    """Read back what carries no digest yet and write it into the manifest."""

    archive: str
    incident: str
    deadline_s: float
    limits: Limits
    copy: CopySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FindUndigested:
    """Look which of the newest *limit* incidents lack a digest."""

    archive: str
    limit: int


Job = Begin | RunStep | Record | Seal | Recover | Prune | Release | AddDigests | FindUndigested


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """A step is alive: bytes written so far."""

    size_bytes: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done", omit_defaults=True):
    """A job's end. *reason* is empty where *status* is ok."""

    status: StepStatus = StepStatus.OK
    reason: str = ""
    hint: str | None = None
    exit_code: int = 0
    artifacts: int = 0
    size_bytes: int = 0
    reserve_bytes: int = 0
    state: IncidentState | None = None
    ids: tuple[str, ...] = ()
    sealed: dict[str, IncidentState] = {}
    tainted: bool = False


Reply = Progress | Done
