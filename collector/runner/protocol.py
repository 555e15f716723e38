"""
What supervisor and worker say to each other over a socket pair of whole messages.

Jobs are pickled: they go from the supervisor to a process that it forked itself. Replies come from
a process that reads hostile files, so they are JSON of a fixed form and bounded in length.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from collector.collectors.base import Collector
from collector.model.copying import CopySettings
from collector.model.incident import Header, IncidentState, StepEnd, StepStatus
from collector.model.marker import Marker
from collector.model.pressure import Budget, GateLimits, SpeedChange, Tick
from collector.model.redaction import Redaction
from collector.model.retention import RetentionRules
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
class ReadStep:
    """
    Read what one light collector yields into memory, up to its first file; as fast as the machine allows.

    *fresh*: this memory holds nothing yet.
    """

    step: str
    collector: Collector
    marker: Marker
    deadline_s: float
    redaction: Redaction
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSpool:
    """
    Write what was read into the memories that come with this job, and the ends of the steps that are done with it.

    *again*: an earlier try died half-way.
    """

    archive: str
    incident: str
    ends: tuple[StepEnd, ...]
    reserve_bytes: int
    copy: CopySettings
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """
    Run one collector and write what it yields.

    *goes_on*: its first artifacts were written before, and are passed over. *waited_s* is what the incident has used
    up of its wait, *ticks* what the supervisor saw of distress before.
    """

    archive: str
    incident: str
    step: str
    collector: Collector
    marker: Marker
    deadline_s: float
    limits: GateLimits
    budget: Budget
    reserve_bytes: int
    copy: CopySettings
    redaction: Redaction
    goes_on: bool = False
    waited_s: float = 0.0
    ticks: tuple[Tick, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Append the ends of steps to the journal."""

    archive: str
    incident: str
    ends: tuple[StepEnd, ...]


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
    rules: RetentionRules
    now_s: float
    spare: str = ""


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
    limits: GateLimits
    copy: CopySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FindUndigested:
    """Look which of the newest *limit* incidents lack a digest."""

    archive: str
    limit: int


Job = Begin | ReadStep | WriteSpool | RunStep | Record | Seal | Recover | Prune | Release | AddDigests | FindUndigested


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """A step is alive: bytes written so far."""

    size_bytes: int


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What of a step's evidence reached the disk, and why that is not all."""

    step: str
    artifacts: int
    size_bytes: int
    status: StepStatus
    reason: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done", omit_defaults=True):
    """
    A job's end. *reason* is empty where *status* is ok.

    *rest*: the step has more than was read into memory. *direct*: the archive's file system takes writes past the
    page cache.
    """

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
    rest: bool = False
    direct: bool = True
    written: tuple[Written, ...] = ()
    waited_s: float = 0.0
    speed_changes: tuple[SpeedChange, ...] = ()
    more_changes: int = 0
    tainted: bool = False


Reply = Progress | Done
