"""The progress of a run on a terminal, or its result as one JSON document."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import click
import msgspec

from collector.cli.progress_line import ProgressLine, fitting
from collector.cli.text import counted, printable, size
from collector.daemon.messages import Answer, Reply
from collector.model.incident import StepStatus
from collector.model.recording import STEP as RECORDER
from collector.runner import events

ERASE_LINE = "\r\033[K"
STOPPING = "stopping: the running step ends, and what was collected is sealed; this takes a few seconds"
NOTHING_APPLIED = 3
"""Exit status of a run whose steps all did not apply: whoever asked for them has nothing."""


class Renderer:
    """Prints events as they come; with *as_json* nothing until the end, then one JSON document."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._steps: list[dict[str, Any]] = []
        self._archived: events.IncidentArchived | None = None
        self._live = not as_json and sys.stderr.isatty()
        self._progress = ProgressLine()

    def __enter__(self) -> Renderer:
        self._show_now("collecting")
        return self

    def __exit__(self, *_: object) -> None:
        self._show_now("")

    def event(self, event: Answer) -> None:
        match event:
            case events.IncidentOpened():
                self._print(f"incident {event.incident}")
                for step, reason in event.left_out.items():
                    self._print(f"  {step:<16} left out: {reason}")
            case events.IncidentPruned():
                self._print(f"deleted {event.incident}: {event.reason}")
            case events.StepStarted():
                self._show_now(event.step)
            case events.StepWaiting():
                self._print(f"  {event.step:<16} waits: {printable(event.reason)}")
                self._show_now(f"{event.step}: waits: {event.reason}")
            case events.StepQueued():
                self._show_now(f"{event.step}: waits: {event.reason}")
            case events.StepProgressed():
                self._show_now(self._progress.text(event))
            case events.StepFinished():
                self._finished(event)
            case events.IncidentArchived():
                self._archived = event
                self._show_now("reading back for digests")

    def reply(self, reply: Reply) -> int:
        """Print how the run ended; return the exit status."""
        self._show_now("")
        done = self._archived
        exit_code = NOTHING_APPLIED if done is not None and self._nothing_applied() else reply.exit_code
        if self._as_json:
            document = {
                "exit_code": exit_code,
                "incident": reply.incident,
                "path": done.path if done else None,
                "state": done.state if done else None,
                "size_bytes": done.size_bytes if done else 0,
                "duration_s": done.duration_s if done else None,
                "error": reply.message or None,
                "hint": reply.hint,
                "steps": self._steps,
            }
            click.echo(msgspec.json.encode(document))
        elif done is not None:
            figures = f"{counted(done.artifacts, 'artifact')}, {size(done.size_bytes)} in {done.duration_s:.2f} s"
            click.echo(f"{done.state}: {figures}", err=True)
            if exit_code != reply.exit_code:
                click.echo("collector: none of these steps applies: nothing was collected", err=True)
            click.echo(done.path)
        else:
            click.echo(f"collector: nothing was archived: {reply.message}", err=True)
            if reply.hint:
                click.echo(f"  hint: {reply.hint}", err=True)
        return exit_code

    def stopping(self) -> None:
        """Say on Ctrl-C what happens now; may be called from a signal handler, which must not use the streams."""
        if not self._as_json:
            with suppress(OSError):
                os.write(2, f"{ERASE_LINE if self._live else ''}{STOPPING}\n".encode())

    def _nothing_applied(self) -> bool:
        """Return whether no step had anything to collect, apart from the flight recorder, which is always there."""
        ends = [step["status"] for step in self._steps if step["id"] != RECORDER]
        return bool(ends) and set(ends) == {StepStatus.NOT_APPLICABLE}

    def _finished(self, event: events.StepFinished) -> None:
        end = event.end
        self._steps.append({**msgspec.to_builtins(end), "artifacts": event.artifacts, "size_bytes": event.size_bytes})
        result = f"{counted(event.artifacts, 'artifact')}, {size(event.size_bytes)}, {end.duration_s:.2f} s"
        if end.status is not StepStatus.OK:
            result = f"{result}: {end.reason}" if event.artifacts else end.reason
        self._print(f"  {end.id:<16} {end.status:<14} {result}")
        if end.hint:
            self._print(f"  {'':<16} hint: {end.hint}")

    def _print(self, line: str) -> None:
        if not self._as_json:
            click.echo(f"{ERASE_LINE if self._live else ''}{line}", err=True)

    def _show_now(self, text: str) -> None:
        """Show *text* on a terminal until the next line replaces it."""
        if self._live:
            click.echo(f"{ERASE_LINE}{fitting(text)}", err=True, nl=False)
