"""A table for people and for pipes: one line a row."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import click

from collector.cli.text import printable
from collector.report.text import columns as width_of
from collector.report.text import fitted

GAP = 2
SHORTEST = 8
"""Columns that a text is cut to before another one is left out."""

NONE = "-"


class TableColumn(NamedTuple):
    """
    A column: its *head*, and how it gives way on a narrow terminal.

    Text that is *elastic* is cut. Columns with a *rank* are left out, the highest first.
    """

    head: str
    right: bool = False
    elastic: bool = False
    rank: int = 0


def echo_table(columns: Sequence[TableColumn], rows: Iterable[Sequence[str]], *, legend: bool) -> None:
    """
    Print *rows*, escaped, under the heads of *columns*.

    In a pipe every column is whole; on a terminal a line is as wide as that. Empty cells are ``-``, so that a program
    can split a line at its spaces as far as the last column.
    """
    cells = [[printable(cell) or NONE for cell in row] for row in rows]
    lines = [[column.head for column in columns], *cells] if legend else cells
    widths = [max((width_of(line[at]) for line in lines), default=0) for at in range(len(columns))]
    shown = list(range(len(columns)))
    if (available := terminal_columns()) is not None:
        shown = fit(columns, widths, available)
    out = [_line([line[at] for at in shown], [(columns[at], widths[at]) for at in shown]) for line in lines]
    click.echo("".join(f"{line}\n" for line in out), nl=False)


def terminal_columns() -> int | None:
    """Return how wide the terminal is to which standard output goes, ``None`` if it goes elsewhere."""
    if not sys.stdout.isatty():
        return None
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        width = 0
    return width or 80  # a terminal that does not know is as wide as a VT100


def fit(columns: Sequence[TableColumn], widths: list[int], available: int) -> list[int]:
    """Return the columns that fit, and shorten *widths*: first the widest elastic one, then the others."""
    shown = list(range(len(columns)))
    for rank in sorted({column.rank for column in columns}, reverse=True):
        least = sum(min(widths[at], SHORTEST) if columns[at].elastic else widths[at] for at in shown)
        if least + GAP * (len(shown) - 1) <= available or rank == 0:
            break
        shown = [at for at in shown if columns[at].rank != rank]
    excess = sum(widths[at] for at in shown) + GAP * (len(shown) - 1) - available
    elastic = [at for at in shown if columns[at].elastic]
    while excess > 0 and elastic:
        widest = max(elastic, key=lambda at: widths[at])
        if widths[widest] <= SHORTEST:
            break
        widths[widest] -= 1
        excess -= 1
    return shown


def _line(cells: list[str], columns: list[tuple[TableColumn, int]]) -> str:
    texts = [_padded(cell, width, right=column.right) for cell, (column, width) in zip(cells, columns, strict=True)]
    return (" " * GAP).join(texts).rstrip()


def _padded(cell: str, width: int, *, right: bool) -> str:
    shown = fitted(cell, width)
    space = " " * (width - width_of(shown))
    return space + shown if right else shown + space
