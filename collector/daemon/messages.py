"""The messages between the command line and the daemon: one JSON message per packet."""

from __future__ import annotations

from typing import Any

import msgspec

from collector.archive.summary import IncidentSummary
from collector.model.incident import IncidentState
from collector.model.marker import ProcessRef
from collector.model.pressure import Sample
from collector.model.recording import Second
from collector.model.top_processes import Round
from collector.runner.events import AnyEvent
from collector.runner.replies import Done

PROTOCOL = 3
MESSAGE_LIMIT = 65_536
SOCKET_NAME = "control.sock"
MEMBERS_SOCKET_NAME = "members.sock"
"""For the members of ``archive.group``; they cannot take root's place on the other one."""


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """Open an incident by hand; answered by events, then a `Reply`."""

    pipeline: str | None = None
    reason: str = ""
    processes: tuple[ProcessRef, ...] = ()
    only: tuple[str, ...] = ()


class StatusRequest(msgspec.Struct, frozen=True, tag="status"):
    """Ask for a `Status`."""


class ReloadRequest(msgspec.Struct, frozen=True, tag="reload"):
    """Read the configuration again."""


class DrainRequest(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Begin no further incident; *off*: do so again. Answered at once; `Status` says how far it is."""

    off: bool = False


class WatchRequest(msgspec.Struct, frozen=True, tag="watch"):
    """Ask for a `Watched`: the rows of the last minute that are newer than *since_s* since boot."""

    since_s: float = 0.0


class MetricsRequest(msgspec.Struct, frozen=True, tag="metrics"):
    """Ask for the metrics; answered by `MetricsText`, in order, then a `Reply`."""


class SummariesRequest(msgspec.Struct, frozen=True, tag="summaries"):
    """Ask for `Summaries`: all that the members of ``archive.group`` may ask for."""


Request = RunRequest | StatusRequest | ReloadRequest | WatchRequest | MetricsRequest | DrainRequest


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """
    An incident under way; *total_bytes* is how long the step's files are in all, if that is known.

    *over_budget* is which budget was exceeded, if it is collected without bulk for that reason.
    """

    incident: str
    step: str | None = None
    waiting_for: str | None = None
    size_bytes: int = 0
    total_bytes: int | None = None
    seconds: float = 0.0
    over_budget: str = ""


class Recent(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that ended since the start."""

    incident: str
    state: IncidentState
    ended_s: float
    size_bytes: int
    over_budget: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="status"):
    """
    The state of a running daemon, for ``collector status``.

    *limits* says how often each limit was reached since the start, by who paid for it; *crashed_held*, how many
    crashed processes are held now; *handovers*, how many incidents are to be handed over (*waiting*), and how many were
    since the start (*done*) or will never be (*failed*); *second* is the newest row of the flight recorder. *drained_s*
    is since when, since the epoch, nothing more begins, and *draining* how many incidents still wait to begin all the
    same.
    """

    protocol: int
    version: str
    pid: int
    since_s: float
    config_hash: str
    config_source: str
    config_problem: str | None
    archive: str
    running: tuple[Running, ...]
    queued: int
    workers_idle: int
    workers_abandoned: tuple[int, ...]
    sample: Sample
    available_bytes: int
    triggers: dict[str, str]
    lost: dict[str, int]
    fates: dict[str, int]
    recent: tuple[Recent, ...]
    ledger_problem: str | None = None
    after_restart: tuple[str, ...] = ()
    limits: dict[str, dict[str, int]] = {}
    crashed_held: int = 0
    handovers: dict[str, int] = {}
    second: dict[str, Any] | None = None
    drained_s: float | None = None
    draining: int = 0


class Watched(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="watched"):
    """
    What the flight recorder has, for ``collector status --watch``.

    *columns* names the figures of each row; none if the recorder is off. *top* is the last round over all processes.
    """

    period_s: float
    columns: tuple[str, ...]
    seconds: tuple[Second, ...]
    top: Round | None = None


class MetricsText(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="metrics"):
    """A piece of the metrics' text, which may be longer than a message."""

    text: str


class Summaries(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="summaries"):
    """The newest incidents, the oldest of these first, without what may be secret; *left_out* counts older ones."""

    archive: str
    incidents: tuple[IncidentSummary, ...]
    left_out: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="reply"):
    """The last message: the exit status for the command line, and the reason unless it is 0 or 3."""

    exit_code: int = 0
    message: str = ""
    hint: str | None = None
    incident: str | None = None


Answer = AnyEvent | Status | Watched | Summaries | MetricsText | Reply


def reply_of(done: Done) -> Reply:
    """Return the reply that ends a run: 0 if everything was collected, 3 if not, else why nothing was archived."""
    if done.incident is None:
        return Reply(exit_code=done.exit_code, message=done.reason, hint=done.hint)
    return Reply(exit_code=0 if done.state is IncidentState.COMPLETE else 3, incident=done.incident)
