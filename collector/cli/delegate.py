"""Handing a run over to the daemon, where one listens that would do the same."""

from __future__ import annotations

import contextlib
import os
import socket

import click

from collector.cli.render import Renderer
from collector.cli.text import escape_name
from collector.daemon.messages import Reply, RunRequest, Status
from collector.daemon.requests import ask, connected, status_of
from collector.model.errors import CollectorError, DeniedError, UnreachableError
from collector.pipeline.generation import Generation


class LetGoError(CollectorError):
    """Ctrl-C while the daemon did the work: only the waiting has ended."""

    exit_code = 130


def reason_against(generation: Generation) -> str | None:
    """
    Return why the daemon would not do what *generation* says; ``None`` if it would.

    Raises:
        UnreachableError: If none listens.
        DeniedError: If this user may not ask.
    """
    try:
        status = status_of(generation.runtime_directory)
    except (UnreachableError, DeniedError):
        raise
    except CollectorError as exc:
        return str(exc)
    return _difference(status, generation)


def _difference(status: Status, generation: Generation) -> str | None:
    if os.path.realpath(status.archive) != os.path.realpath(generation.settings.archive):
        return f"its archive is {escape_name(status.archive)}"
    if status.config_hash != generation.loaded.hash:
        return f"its configuration, {escape_name(status.config_source)}, says something else"
    return None


def by_daemon(generation: Generation, request: RunRequest, renderer: Renderer, *, named: bool) -> int | None:
    """
    Have the daemon do it, and show how.

    Args:
        generation: What is to run, and where a daemon may listen.
        request: What is asked of it.
        renderer: Shows its answers.
        named: The caller named a configuration or an archive: the daemon must have the same.

    Returns:
        The exit status; ``None`` if no daemon was asked, and the caller may do it.

    Raises:
        UnreachableError: If the daemon ended after it was asked: doing it again would do it twice.
        LetGoError: If Ctrl-C came first.
    """
    with contextlib.ExitStack() as stack:
        try:
            if named and (reason := reason_against(generation)):
                click.echo(f"collector: the daemon is not used: {reason}", err=True)
                return None
            sock = stack.enter_context(connected(generation.runtime_directory))
        except (UnreachableError, DeniedError):
            return None  # none listens to this user
        return _asked(sock, request, renderer)


def _asked(sock: socket.socket, request: RunRequest, renderer: Renderer) -> int:
    try:
        for answer in ask(sock, request):
            if isinstance(answer, Reply):
                return renderer.reply(answer)
            renderer.event(answer)
    except UnreachableError as exc:
        told = "the daemon went away; what it had is sealed at its next start: `collector list`"
        raise UnreachableError(told, hint=exc.hint) from exc
    except KeyboardInterrupt:
        raise LetGoError("the daemon goes on: `collector status`") from None
    return UnreachableError.exit_code
