"""Lines of text that fit a width, cut with an ellipsis where they are too many."""

from __future__ import annotations

from collections.abc import Iterator

from collector.report.text import ELLIPSIS, columns, fitted


def wrapped(text: str, width: int, most: int) -> list[str]:
    """
    Return *text* in lines, broken at spaces where there are some.

    Args:
        text: Without line breaks.
        width: Columns of a line, at least 2.
        most: Lines; if the text needs more, the last one ends with an ellipsis.
    """
    lines: list[str] = []
    pieces = _pieces(text, width)
    line = next(pieces, "")
    for piece in pieces:
        if columns(line) + 1 + columns(piece) <= width:
            line += f" {piece}"
            continue
        if len(lines) == most - 1:
            return [*lines, _ended(line, width)]
        lines.append(line)
        line = piece
    return [*lines, line] if line else lines


def wrapped_with_end(text: str, end: str, width: int, most: int) -> list[str]:
    """Return *text* and *end* as `wrapped` does; if they are too long, what is left out is the end of *text*."""
    if not end or not text:
        return wrapped(text or end, width, most)
    words = " ".join(wrapped(text, width, most)).split(" ")
    lines = wrapped(" ".join([*words, end]), width, most + 1)
    while len(lines) > most and len(words) > 1:
        words = [*words[:-2], ELLIPSIS]
        lines = wrapped(" ".join([*words, end]), width, most + 1)
    return lines[:most]


def _pieces(text: str, width: int) -> Iterator[str]:
    """Yield the words; one that is longer than a line in pieces."""
    for word in text.split(" "):
        rest = word
        while columns(rest) > width:
            head = fitted(rest, width + 1).removesuffix(ELLIPSIS)
            head = head if head and columns(head) <= width else rest[: max(1, width // 2)]
            yield head
            rest = rest[len(head) :]
        if rest:
            yield rest


def _ended(line: str, width: int) -> str:
    return line + " " + ELLIPSIS if columns(line) + 2 <= width else fitted(line + ELLIPSIS * 2, width)
