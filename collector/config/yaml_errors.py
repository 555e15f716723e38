"""What PyYAML says about text that is not YAML, in words that help its author, and where the mistake really is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from collector.config.lookalikes import find_lookalike
from collector.config.slips import slip_above

# What PyYAML's problem or context contains; what to say; what to do. The first match is reported.
_KNOWN = (
    ("while scanning a quoted scalar", "this quote is never closed", "close it on the same line"),
    ("'\\t' that cannot start", "a tab where only spaces are allowed", "indent with spaces, not tabs"),
    ("found character '%'", "a value cannot begin with %", "put it in quotes"),
    ("found character '@'", "a value cannot begin with @", "put it in quotes"),
    ("found character '`'", "a value cannot begin with a backquote", "put it in quotes"),
    ("while scanning an alias", "a value that begins with * needs quotes", 'write it as "*..."'),
    ("while scanning an anchor", "a value that begins with & needs quotes", 'write it as "&..."'),
    ("while scanning a tag", "a value that begins with ! needs quotes", 'write it as "!..."'),
    (
        "mapping values are not allowed",
        "a second `: ` on this line, or it is indented too far",
        "use quotes for text with `: `",
    ),
    (
        "could not find expected ':'",
        "neither a key with its value nor an item of a list",
        "end a key with a colon and a space, begin an item with `- `",
    ),
    (
        "while parsing a block",
        "the indentation of this line does not match the lines above",
        "align it with its siblings",
    ),
    ("expected ',' or ']'", "the list that begins on line {line} is not closed", "add the missing ]"),
    ("expected ',' or '}'", "the braces that open on line {line} are not closed", "add the missing }}"),
)
# Where the line that PyYAML stumbles over is often not the one that is wrong.
_FOLLOW_UPS = ("mapping values are not allowed", "could not find expected ':'", "while parsing a block")
_AT_CONTEXT = ("while scanning a quoted scalar", "could not find expected ':'")
TEMPLATE = "a template that was not filled in"
TEMPLATE_HINT = "let the tool that fills it in write this file"
_LINE = re.compile("\r\n|\r|\n")


class Explained(NamedTuple):
    """A sentence, what to do, and the line and column, from 1, if known."""

    sentence: str
    hint: str | None
    place: tuple[int, int] | None


def explain(exc: yaml.MarkedYAMLError, text: str) -> Explained:
    """Return what is wrong with *text*, given what PyYAML says."""
    said = f"{exc.problem or ''}, {exc.context or ''}"
    opened = exc.context_mark if any(needle in said for needle in _AT_CONTEXT) else None
    mark = opened or exc.problem_mark or exc.context_mark
    found = _more_likely(text, said, mark) if mark else None
    if found is not None:
        return found
    place = (mark.line + 1, mark.column + 1) if mark else None
    begin = exc.context_mark.line + 1 if exc.context_mark else 1
    for needle, sentence, hint in _KNOWN:
        if needle in said:
            return Explained(f"not YAML: {sentence.format(line=begin)}", hint.format(), place)
    return Explained("not YAML: " + re.sub(r"\s+", " ", said.strip(", ")), None, place)


def _more_likely(text: str, said: str, mark: yaml.Mark) -> Explained | None:
    """Return the mistake behind what PyYAML says about *mark*, if there is one that explains it better."""
    lines = _LINE.split(text)
    for number, line in enumerate(lines):
        if line.startswith("<<<<<<< "):
            return Explained("a merge conflict that is not resolved", "keep one side", (number + 1, 1))
        if line.lstrip().startswith("{%"):
            return Explained(TEMPLATE, TEMPLATE_HINT, (number + 1, line.index("{") + 1))
    for number in range(mark.line, max(-1, mark.line - 2), -1):
        line = lines[number].partition(" #")[0] if number < len(lines) else ""
        if (char := find_lookalike(line)) and (char.at_edge or number == mark.line):
            return Explained(char.message, char.hint, (number + 1, char.offset + 1))
    if (quote := _ended_before(text, mark)) is not None:
        hint = "a quote is missing or too many; within '...' write '' for one, within \"...\" \\\""
        return Explained(f"the text in quotes that begins on line {quote.line + 1} ends before this",
                         hint, (mark.line + 1, mark.column + 1))  # fmt: skip
    if any(needle in said for needle in _FOLLOW_UPS) and (above := slip_above(lines, mark.line)) is not None:
        line_number, column, slip = above
        return Explained(slip.message, slip.hint, (line_number + 1, column + 1))
    return None


def _ended_before(text: str, mark: yaml.Mark) -> yaml.Mark | None:
    """Return where the text in quotes begins whose last quote stands just before *mark*, if one does."""
    for token in _tokens(text):
        is_quoted = isinstance(token, yaml.ScalarToken) and token.style in ("'", '"')
        end = token.end_mark.index
        if is_quoted and end <= mark.index and text[end : mark.index] in ("", "*", "&", "!"):
            begin: yaml.Mark = token.start_mark
            return begin
    return None


def _tokens(text: str) -> Iterator[yaml.Token]:
    """Yield what can be read of *text*, up to the mistake in it."""
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_token():
            yield loader.get_token()  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError, OverflowError):  # the latter two: chr() of an escape
        yield from loader.tokens  # those that waited for what follows
    finally:
        loader.dispose()
