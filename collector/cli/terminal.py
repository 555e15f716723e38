"""The terminal: how wide it is, its colours, and a pager for what is longer than it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable

import click

from collector.report.screen import BAD, HEAD, LABEL, ScreenLine

WIDTH = 80
MOST = 120
"""Columns: longer lines are hard to read."""

NOT_FOUND = 127
"""What a shell returns for a command that it does not find."""

BOLD, RED, DIM, PLAIN = "\033[1m", "\033[1;31m", "\033[2m", "\033[0m"


def width() -> int:
    """Return how many columns lines may have: 80 where there is no terminal."""
    return min(MOST, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def has_colour() -> bool:
    """Return whether to colour. Source: https://no-color.org, https://bixense.com/clicolors."""
    environ = os.environ
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") != "0":
        return True
    return sys.stdout.isatty() and environ.get("CLICOLOR") != "0" and environ.get("TERM", "dumb") != "dumb"


def write(line: ScreenLine) -> None:
    """Print a line of a screen, with colours if they are wanted, also in a pipe; it says the same without."""
    click.echo(_painted(line), color=True)


def _painted(line: ScreenLine) -> str:
    text = str(line)
    if not has_colour():
        return text
    if line.mark == HEAD:
        return f"{BOLD}{text}{PLAIN}"
    return f"{RED if line.mark == BAD else DIM}{text[:LABEL]}{PLAIN}{text[LABEL:]}"


def page(lines: Iterable[str]) -> None:
    """Print lines: through the pager if they are more than the terminal has."""
    found = list(lines)
    if not sys.stdout.isatty() or len(found) < shutil.get_terminal_size().lines or not _paged("\n".join(found) + "\n"):
        for line in found:
            click.echo(line)


def _paged(text: str) -> bool:
    """Return whether a pager showed it; less may start no programs, since sudo may allow no more than this command."""
    try:
        command = shlex.split(os.environ.get("PAGER", "less -FRX"))
    except ValueError:
        return False
    if not command or os.environ.get("TERM", "dumb") == "dumb":
        return False
    environ = {"LESSCHARSET": "utf-8", **os.environ, "LESSSECURE": "1"}
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environ) as process:
            process.communicate(text.encode(sys.stdout.encoding, "backslashreplace"))
    except OSError:
        return False
    return process.returncode != NOT_FOUND
