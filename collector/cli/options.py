"""Options that several verbs share. Paths are plain text: `click.Path` would refuse them in words of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from collector.config.directories import effective_archive_path
from collector.config.load import find, load, load_lenient
from collector.model.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """``--config PATH``."""
    told = "Configuration file [/etc/collector/collector.yaml]."
    return click.option("--config", metavar="PATH", help=told)(function)


def archive_option(function: F) -> F:
    """``--archive DIR``."""
    told = "Archive directory, instead of archive.path."
    return click.option("--archive", metavar="DIR", help=told)(function)


def json_option(function: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")(function)


def archive_path(config: str | None, archive: str | None) -> str:
    """Return the archive that a verb means: the one named, else the configured one, also by a file with mistakes."""
    if archive is not None:
        return os.path.abspath(archive)
    path = find(config)
    try:
        known = load(path).config
    except ConfigError:
        known = load_lenient(path)
        click.echo("collector: note: the configuration has mistakes: `collector config check`", err=True)
    return effective_archive_path(known, is_root=os.geteuid() == 0, environ=os.environ)
