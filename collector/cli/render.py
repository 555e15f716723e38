"""A run as people see it while it goes on, or as one JSON document at its end."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click
import msgspec

from collector.cli.text import size
from collector.daemon.messages import Answer, Reply
from collector.model.incident import StepStatus
from collector.runner import events


class Renderer:
    """
    Shows events.

    Args:
        as_json: Say nothing until the end, then print one document.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._steps: list[dict[str, Any]] = []
        self._archived: events.IncidentArchived | None = None
        self._live: Any = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Renderer:
        if not self._as_json and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - 6 MiB that only a terminal needs

            self._live = self._stack.enter_context(Console(stderr=True).status("collecting"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def event(self, event: Answer) -> None:
        """Show one event."""
        match event:
            case events.IncidentOpened():
                self._say(f"incident {event.incident}")
            case events.IncidentPruned():
                self._say(f"deleted {event.incident}: {event.reason}")
            case events.StepStarted():
                self._update(event.step)
            case events.StepWaiting():
                self._say(f"  {event.step:<16} waits: {event.reason}")
                self._update(f"{event.step}: waiting for memory")
            case events.StepProgressed():
                self._update(f"{event.step}: {size(event.size_bytes)}")
            case events.StepFinished():
                self._finished(event)
            case events.IncidentArchived():
                self._archived = event
                self._update("reading back for digests")
            case _:
                pass

    def reply(self, reply: Reply) -> int:
        """Show how the run ended; return the exit status."""
        self._stack.close()
        self._live = None
        done = self._archived
        if self._as_json:
            click.echo(
                msgspec.json.encode(
                    {
                        "exit_code": reply.exit_code,
                        "incident": reply.incident,
                        "path": done.path if done else None,
                        "state": done.state if done else None,
                        "size_bytes": done.size_bytes if done else 0,
                        "duration_s": done.duration_s if done else None,
                        "error": reply.message or None,
                        "hint": reply.hint,
                        "steps": self._steps,
                    }
                )
            )
        elif done is not None:
            told = f"{done.artifacts} artifacts, {size(done.size_bytes)} in {done.duration_s:.2f} s"
            click.echo(f"{done.state}: {told}", err=True)
            click.echo(done.path)
        else:
            click.echo(f"collector: nothing was archived: {reply.message}", err=True)
            if reply.hint:
                click.echo(f"  hint: {reply.hint}", err=True)
        return reply.exit_code

    def _finished(self, event: events.StepFinished) -> None:
        end = event.end
        self._steps.append({**msgspec.to_builtins(end), "artifacts": event.artifacts, "size_bytes": event.size_bytes})
        told = f"{event.artifacts} artifacts, {size(event.size_bytes)}, {end.duration_s:.2f} s"
        if end.status is not StepStatus.OK:
            told = f"{told}: {end.reason}" if event.artifacts else end.reason
        self._say(f"  {end.id:<16} {end.status:<9} {told}")
        if end.hint:
            self._say(f"  {'':<16} hint: {end.hint}")

    def _say(self, line: str) -> None:
        if self._live is not None:  # above the spinner, not through it
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif not self._as_json:
            click.echo(line, err=True)

    def _update(self, text: str) -> None:
        if self._live is not None:
            self._live.update(text)
