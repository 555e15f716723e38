"""
What a worker sends back to the supervisor, over the same socket pair as its jobs (`runner.protocol`).

It comes from a process that reads hostile files, so it is JSON of a fixed form and limited in length.
"""

from __future__ import annotations

import msgspec

from collector.model.handover import HandoverRecord, WaitingHandover
from collector.model.incident import IncidentState, LeftOut, StepEnd, StepStatus
from collector.model.pressure import SpeedChange

MESSAGE_LIMIT = 65_536
"""Longest reply in bytes; the kernel keeps one whole in a default socket buffer of 208 KiB."""


class Progress(msgspec.Struct, frozen=True, tag="progress", omit_defaults=True):
    """
    A step is alive: bytes written so far.

    *total_bytes* is how many it will be, as far as its collector knows; *slowed* is why the gate holds it back, if so.
    """

    size_bytes: int
    total_bytes: int | None = None
    slowed: str = ""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a step's evidence reached the disk, and why not all of it did."""

    step: str
    artifacts: int
    size_bytes: int
    status: StepStatus
    reason: str = ""


class RemovedCores(msgspec.Struct, frozen=True):
    """The files of a trigger that were *removed*, as ``DEVICE:INODE``, their size, and why others stay."""

    trigger: str
    removed: tuple[str, ...]
    size_bytes: int
    problem: str = ""


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far an incident was when its run was cut off.

    *ended* and *begun* are its steps, the latter with what is there of each; *recorder* is how the recorder's ended.
    """

    planned: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    ended: tuple[str, ...] = ()
    begun: tuple[Written, ...] = ()
    recorder: StepEnd | None = None
    gap_s: float = 0.0


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done", omit_defaults=True):
    """
    How a job ended, or a whole run.

    *reason* is empty where *status* is ok. *exit_code* (sysexits.h) is for the command line. *rest*: the step has more
    than was read into memory. *direct*: the archive's file system supports direct I/O. *tainted*: the worker must be
    replaced. *kept_free_bytes*: what copies must leave free, for the shares of others, too. *owners*: whose the
    incidents of *ids* were; *unsent*: those of them that were still to be handed over. *kept*: how many incidents
    retention has left, and their bytes. *handover*: what came of handing one over, ``None`` if that was not tried.
    *waiting* are those to be handed over, and *more* the number of others. *incident* is set by the runner, for an
    incident that was archived; *state* says how complete it is.
    """

    status: StepStatus = StepStatus.OK
    reason: str = ""
    hint: str | None = None
    exit_code: int = 0
    incident: str | None = None
    state: IncidentState | None = None
    artifacts: int = 0
    size_bytes: int = 0
    reserve_bytes: int = 0
    kept_free_bytes: int = 0
    ids: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    kept: tuple[int, int] | None = None
    unsent: tuple[str, ...] = ()
    handover: HandoverRecord | None = None
    waiting: tuple[WaitingHandover, ...] = ()
    more: int = 0
    sealed: dict[str, IncidentState] = {}
    rest: bool = False
    direct: bool = True
    written: tuple[Written, ...] = ()
    waited_s: float = 0.0
    speed_changes: tuple[SpeedChange, ...] = ()
    more_changes: int = 0
    tainted: bool = False
    cores_removed: tuple[RemovedCores, ...] = ()
    resumed: Resumed | None = None
