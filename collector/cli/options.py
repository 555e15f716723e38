"""Options that several verbs share. Paths are plain text: `click.Path` has error messages of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from collector.cli.verbs import config_option
from collector.config.directories import effective_archive_path
from collector.config.load import find, load, load_lenient
from collector.model.errors import ConfigError, DeniedError, UsageError

AS_ROOT = "run it as root (sudo); members of archive.group may ask for `collector list`"

__all__ = ["archive_option", "config_option", "json_option"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
ID_END = 6
"""Digits at the end of an id that tell it apart on a narrow terminal; `collector show` takes them."""

archive_option = click.option("--archive", metavar="DIR", help="Archive directory, instead of archive.path.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")


def archive_options(function: F) -> F:
    """``--archive DIR``, ``--config PATH`` and ``--json``: what all commands that read the archive have."""
    return archive_option(config_option(json_option(function)))


def parsed(parse: Callable[[str], T], text: str) -> T:
    """
    Return ``parse(text)``.

    Raises:
        UsageError: With the message of the `ValueError` that *parse* raises.
    """
    try:
        return parse(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def archive_path(config: str | None, archive: str | None) -> str:
    """
    Return the archive given, else the configured one, even if the configuration has mistakes.

    Raises:
        ConfigError: If there is no such file.
        DeniedError: If this user has no archive, and the machine's is root's.
    """
    if archive is not None:
        return os.path.abspath(archive)
    path = find(config)
    try:
        known = load(path).config
    except ConfigError:
        if config is not None and not os.path.exists(config):
            raise
        known = load_lenient(path)
        click.echo("collector: note: the configuration has mistakes: `collector config check`", err=True)
    own = effective_archive_path(known, is_root=os.geteuid() == 0, environ=os.environ)
    if own != known.archive.path and os.path.lexists(known.archive.path) and not os.path.lexists(own):
        raise DeniedError(f"the archive {known.archive.path} is root's, and this user has none", hint=AS_ROOT)
    return own


def last_rows_options(function: F) -> F:
    """``-n N``, ``-r`` and ``--no-legend``: which rows of a table, and in which order."""
    last = click.option("-n", "last", metavar="N", type=click.IntRange(min=0), help="Only the newest N.")
    reverse = click.option("-r", "--reverse", "newest_first", is_flag=True, help="Newest first.")
    legend = click.option("--no-legend", is_flag=True, help="Leave out the header.")
    return last(reverse(legend(function)))


def taken(rows: list[T], last: int | None, *, newest_first: bool) -> list[T]:
    """Return the *last* rows, which are oldest first, or all; *newest_first* if so."""
    rows = rows if last is None else rows[max(0, len(rows) - last) :]
    return rows[::-1] if newest_first else rows
