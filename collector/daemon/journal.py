"""
Logging: JSON lines on standard error, or text for people where that is a terminal.

Under systemd, standard error is the journal. Writing never blocks: a journald that hangs must not hang the
supervisor. Lines that it does not take are dropped and counted; the count goes out before the next line that it takes.
"""

from __future__ import annotations

import os
import select
import sys
from types import ModuleType

from collector.model.incident import StepEnd, StepStatus
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

PIECE_BYTES = 4096
"""A pipe or socket that is writable takes this much without blocking (PIPE_BUF)."""


class LineWriter:
    """Writes lines to a descriptor without blocking; structlog's logger."""

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
                return False  # the reader is gone
        return True


def configure(*, verbose: bool) -> None:
    """Set up logging for this process."""
    lines = LineWriter(sys.stderr.fileno())
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if sys.stderr.isatty()
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


def log_event(event: events.AnyEvent) -> None:
    """Log an event of the runner, as a warning if evidence is missing or delayed."""
    log = get_logger().bind(incident=event.incident)
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "incident"}
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
        case events.StepWaiting() | events.JournalFailed():
            log.warning(event.__struct_config__.tag, **fields)
        case events.StepStarted() | events.StepProgressed():
            log.debug(event.__struct_config__.tag, **fields)
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
