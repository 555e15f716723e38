"""Slips of the hand that YAML takes for text: no space after a colon or a dash, an equals sign, a text that runs on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# `floor:512MiB` and `- id:cores`; not a URL.
_COLON = re.compile(r"(?P<dash>-?) *(?P<key>[A-Za-z_][\w-]{0,62}) ?:(?!//)(?P<value>\S.*)", re.ASCII)
_EQUALS = re.compile(r"(?P<key>[A-Za-z_][\w-]{0,62}) ?=(?!=) *(?P<value>\S.*)", re.ASCII)
_DASH = re.compile(r"-(?P<value>[^\s-].*)")
_SHOWN = 60
"""Characters of a value that a hint repeats."""


class Slip(NamedTuple):
    """What is wrong in a line, what to write instead, and where, from the beginning of the text."""

    message: str
    hint: str
    offset: int


def find_slip(text: str) -> Slip | None:
    """Return what is wrong with *text*, one line that YAML takes for a text; ``None`` if nothing looks wrong."""
    if found := _COLON.fullmatch(text):
        line = f"{'- ' if found['dash'] else ''}{found['key']}: {_short(found['value'])}"
        return Slip("a space is missing after the colon", f"write `{line}`", text.index(":"))
    if found := _DASH.fullmatch(text):
        return Slip("a space is missing after the dash", f"write `- {_short(found['value'])}`", 0)
    if found := _EQUALS.fullmatch(text):
        line = f"{found['key']}: {_short(found['value'])}"
        return Slip("a key ends with a colon, not with =", f"write `{line}`", text.index("="))
    return None


def hint_of(text: str) -> str | None:
    """Return the slip in *text*, and what to write, as a hint."""
    slip = find_slip(text)
    return f"{slip.message}: {slip.hint}" if slip else None


def slips_of_lines(raw: str) -> Iterator[tuple[int, int, Slip | None]]:
    """
    Yield what is wrong with a text without quotes over several lines, as it stands in the file.

    Each slip comes with its line in *raw*, from 0, and its column, from 0. If there is none, what comes is the line
    where the text goes on, with ``None``: that may be meant.
    """
    lines = [(number, line.strip(), len(line) - len(line.lstrip())) for number, line in enumerate(raw.split("\n"))]
    others = [(number, text, indent) for number, text, indent in lines[1:] if text]
    slips = [(number, indent, slip) for number, text, indent in others if (slip := find_slip(text))]
    yield from ((number, indent + slip.offset, slip) for number, indent, slip in slips)
    if others and not slips:
        number, _, indent = others[0]
        yield number, indent, None


def slip_above(lines: list[str], number: int) -> tuple[int, int, Slip] | None:
    """
    Return the slip behind a mistake that YAML finds in line *number* of *lines*: there, or in the lines just above.

    What has no space after its colon is a text to YAML, which stumbles only over what follows. Line and column are
    from 0.
    """
    first = None
    for above in range(min(number, len(lines) - 1), -1, -1):
        text = lines[above].partition(" #")[0].strip()
        slip = None if text.startswith("#") else find_slip(text)
        if slip is not None:
            first = (above, len(lines[above]) - len(lines[above].lstrip()) + slip.offset, slip)
        elif above != number and text and not text.startswith("#"):
            break
    return first


def _short(value: str) -> str:
    return value.strip()[:_SHOWN]
