"""
Logging: entries of the journal where standard error is the journal, else JSON lines, or text for people on a terminal.

Writing never blocks: a journald that hangs must not hang the supervisor. What it does not take is dropped and counted;
the count goes out before the next line that it takes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any

from collector.daemon.crash_fields import crash_fields
from collector.daemon.log_kinds import priority_of
from collector.daemon.log_output import DroppingLogger, Render, Stream
from collector.daemon.native_journal import SOCKET, JournalSocket, entry_of, stream_is_journal
from collector.model.errors import CollectorError
from collector.model.incident import IncidentState, StepEnd, StepStatus
from collector.model.marker import Marker
from collector.model.text import printable
from collector.runner import events

# structlog imports rich wherever it is installed, and asyncio, with ssl, for its coroutines: 9 MiB that would stay in
# the daemon and in each worker, and neither uses them. A module that is None cannot be imported, and structlog does
# without; an empty one will do for coroutines that nobody calls.
STANDING_IN: dict[str, ModuleType | None] = {"rich": None, "asyncio": ModuleType("asyncio")}
HIDDEN = STANDING_IN.keys() - sys.modules.keys()
sys.modules.update({name: STANDING_IN[name] for name in HIDDEN})  # type: ignore[misc]
import structlog  # noqa: E402

for hidden in HIDDEN:
    del sys.modules[hidden]

get_logger = structlog.get_logger

_render_json = structlog.processors.JSONRenderer()
_render_text = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def configure(*, verbose: bool) -> None:
    """Set up logging for this process."""
    send, render = output_for(sys.stderr.fileno())
    lines = DroppingLogger(send, render)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 20),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


def output_for(fd: int, address: str = SOCKET) -> tuple[Callable[[Any], bool], Render]:
    """Return what takes the lines, and what makes them: standard error is *fd*, the journal's socket *address*."""
    if stream_is_journal(fd):
        journal = JournalSocket(address)
        return (journal.send, _entry) if journal.is_there() else (Stream(fd).write, _prefixed)
    return Stream(fd).write, _text if os.isatty(fd) else _render_json


def _entry(_: Any, level: str, fields: MutableMapping[str, Any]) -> bytes:
    return entry_of(level, fields)


def _prefixed(logger: Any, level: str, fields: MutableMapping[str, Any]) -> str:
    """Return a JSON line with its priority in front. Source: sd-daemon(3)."""
    priority = priority_of(fields["event"], level)
    return f"<{int(priority)}>{_render_json(logger, level, fields)!s}"


def _text(logger: Any, level: str, fields: MutableMapping[str, Any]) -> str:
    """Return a line for a terminal, which must not get what it would obey: names may be anything."""
    shown = {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}
    return _render_text(logger, level, shown | {"exception": fields["exception"]} if "exception" in fields else shown)


def log_failure(exc: Exception) -> None:
    """Log why the daemon cannot run, for those who look at the journal only; others read it on standard error."""
    if not stream_is_journal(sys.stderr.fileno()):
        return
    log = get_logger()
    if isinstance(exc, CollectorError | OSError):
        log.error("daemon.failed", error=str(exc), hint=getattr(exc, "hint", None))
    else:
        log.critical("daemon.failed", error=f"a bug: {type(exc).__name__}: {exc}", exc_info=exc)


def log_event(event: events.AnyEvent, crash: Callable[[], Marker] | None = None) -> None:
    """
    Log an event of the runner, as a warning if evidence is missing.

    Args:
        event: What happened.
        crash: Returns what is known of the crash by now.
    """
    log = get_logger().bind(incident=event.incident)
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "incident"}
    if isinstance(event, events.StepStarted | events.StepProgressed):  # up to ten a second
        log.debug(event.__struct_config__.tag, **fields)
        return
    if crash is not None:
        log = log.bind(**crash_fields(crash()))
    match event:
        case events.StepFinished(end=end):
            fields = {"step": end.id, "status": str(end.status), "duration_s": end.duration_s, **fields}
            del fields["end"]
            if end.status.nothing_missing:
                reason = {"reason": end.reason} if end.reason else {}
                log.info("step.finished", **reason, **fields)
            else:
                log.warning("step.incomplete", reason=end.reason, hint=end.hint, **fields, **_numbers(end))
        case events.IncidentRefused():
            log.error("incident.refused", **fields)
        case events.IncidentArchived(state=state) if state is not IncidentState.COMPLETE:
            log.warning("incident.archived", **fields)
        case events.JournalFailed() | events.HandoverFailed():
            log.warning(event.__struct_config__.tag, **fields)
        case _:
            log.info(event.__struct_config__.tag, **fields)


def _numbers(end: StepEnd) -> dict[str, object]:
    """Return the numbers behind the gate's verdict, for a step that it skipped."""
    verdict = end.verdict
    if verdict is None or end.status is not StepStatus.SKIPPED:
        return {}
    return {
        "verdict": str(verdict.decision),
        "class": str(verdict.step_class),
        "distress": str(verdict.distress),
        "room_bytes": verdict.room_bytes,
        "available_bytes": verdict.available_bytes,
        "budget_bytes": verdict.budget_bytes,
        "floor_bytes": verdict.floor_bytes,
    }
