"""Letting the daemon do a run, if one is running with the same configuration and archive."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import click

from collector.cli.render import Renderer
from collector.cli.text import escape_name
from collector.daemon.messages import Reply, RunRequest
from collector.daemon.requests import ask, connected, status_of
from collector.model.errors import CollectorError, DeniedError, SignalError, UnreachableError
from collector.pipeline.generation import Generation


def _difference(generation: Generation) -> str | None:
    """
    Return how the daemon's archive or configuration differs; ``None`` if they are the same.

    Raises:
        UnreachableError: If no daemon answers.
        DeniedError: If this user is not allowed to ask.
    """
    try:
        status = status_of(generation.runtime_directory)
    except (UnreachableError, DeniedError):
        raise
    except CollectorError as exc:
        return str(exc)
    if os.path.realpath(status.archive) != os.path.realpath(generation.settings.archive):
        return f"its archive is {escape_name(status.archive)}"
    if status.config_hash != generation.loaded.hash:
        return f"its configuration, {escape_name(status.config_source)}, is different"
    return None


def by_daemon(generation: Generation, request: RunRequest, renderer: Renderer, *, named: bool) -> int | None:
    """
    Let the daemon do the run, and show its progress; return the exit status, or ``None`` if no daemon took the request.

    If the user *named* a configuration or an archive, the daemon must have the same.

    Raises:
        UnreachableError: If the daemon ended after it took the request: a second run would repeat it.
        SignalError: On Ctrl-C while waiting for the daemon, which continues.
    """
    with contextlib.ExitStack() as stack:
        try:
            if named and (difference := _difference(generation)):
                click.echo(f"collector: the daemon is not used: {difference}", err=True)
                return None
            sock = stack.enter_context(connected(generation.runtime_directory))
        except (UnreachableError, DeniedError):
            return None  # no daemon that this user may ask
        return _follow(sock, request, renderer)


def _follow(sock: socket.socket, request: RunRequest, renderer: Renderer) -> int:
    try:
        for answer in ask(sock, request):
            if isinstance(answer, Reply):
                return renderer.reply(answer)
            renderer.event(answer)
    except UnreachableError as exc:
        message = "the daemon ended; its next start goes on with what it had begun: `collector list`"
        raise UnreachableError(message, hint=exc.hint) from exc
    except KeyboardInterrupt:
        raise SignalError("the daemon continues the run: `collector status`", number=signal.SIGINT) from None
    return UnreachableError.exit_code
