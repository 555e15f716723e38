"""
Logging: JSON lines on standard error, or text for people where that is a terminal.

Standard error is the journal under systemd. It is never waited for: a journald that hangs must not hang
the supervisor. What it does not take at once is dropped, counted, and told with the next line that it takes.
"""

from __future__ import annotations

import os
import select
import sys

import structlog

from collector.model.incident import StepEnd, StepStatus
from collector.runner import events

PIECE_BYTES = 4096
"""A pipe that is writable takes so much without blocking (PIPE_BUF); a socket does, too."""


class Lines:
    """
    A descriptor that takes lines, or does not.

    Args:
        fd: Open for writing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._dropped = 0

    def msg(self, text: str) -> None:
        """Write one line, or count it as dropped."""
        if self._dropped and self._write(f'{{"event": "log.dropped", "level": "warning", "count": {self._dropped}}}'):
            self._dropped = 0
        if self._dropped or not self._write(text):
            self._dropped += 1

    debug = info = warning = error = critical = msg

    def _write(self, text: str) -> bool:
        data = memoryview(text.encode(errors="backslashreplace") + b"\n")
        while data:
            if not any(flags & select.POLLOUT for _, flags in self._poll.poll(0)):
                return False
            try:
                data = data[os.write(self._fd, data[:PIECE_BYTES]) :]
            except OSError:
                return False  # nobody reads any more
        return True


def configure(*, verbose: bool = False) -> structlog.stdlib.BoundLogger:
    """Set logging up for this process; return the root logger."""
    lines = Lines(sys.stderr.fileno())
    terminal = sys.stderr.isatty()
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 20),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


def tell(event: events.AnyEvent) -> None:
    """Log an event of the runner: one line for what ended, warnings for what is missing."""
    log = structlog.get_logger().bind(incident=event.incident)
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "incident"}
    match event:
        case events.StepFinished(end=end):
            fields = {"step": end.id, "status": str(end.status), "duration_s": end.duration_s, **fields}
            del fields["end"]
            if end.status is StepStatus.OK:
                log.info("step.finished", **fields)
            else:
                log.warning("step.incomplete", reason=end.reason, hint=end.hint, **fields, **_numbers(end))
        case events.IncidentRefused():
            log.error("incident.refused", **fields)
        case events.StepWaiting() | events.JournalFailed():
            log.warning(event.__struct_config__.tag, **fields)
        case events.StepStarted() | events.StepProgressed():
            log.debug(event.__struct_config__.tag, **fields)
        case _:
            log.info(event.__struct_config__.tag, **fields)


def _numbers(end: StepEnd) -> dict[str, object]:
    """Return what the gate's verdict rested on, for a step that it kept from running."""
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
