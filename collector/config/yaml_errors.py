"""What PyYAML says about text that is not YAML, in words that help its author."""

from __future__ import annotations

import re

import yaml

# What PyYAML's problem or context contains; what to say; what to do. The first match is reported.
_KNOWN = (
    ("while scanning a quoted scalar", "this quote is never closed", "close it on the same line"),
    ("'\\t' that cannot start", "a tab where only spaces are allowed", "indent with spaces, not tabs"),
    ("found character '%'", "a value cannot begin with %", "put it in quotes"),
    ("found character '@'", "a value cannot begin with @", "put it in quotes"),
    ("found character '`'", "a value cannot begin with a backquote", "put it in quotes"),
    ("while scanning an alias", "a value that begins with * needs quotes", 'write it as "*..."'),
    ("while scanning an anchor", "a value that begins with & needs quotes", 'write it as "&..."'),
    (
        "mapping values are not allowed",
        "a second `: ` on this line, or it is indented too far",
        "use quotes for text with `: `",
    ),
    ("could not find expected ':'", "a key without a value", "write a space after the colon, as in `key: value`"),
    (
        "while parsing a block",
        "the indentation of this line does not match the lines above",
        "align it with its siblings",
    ),
    ("expected ',' or ']'", "the list that begins on line {line} is not closed", "add the missing ]"),
    ("expected ',' or '}'", "the braces that open on line {line} are not closed", "add the missing }}"),
)


def explain(exc: yaml.MarkedYAMLError) -> tuple[str, str | None, tuple[int, int] | None]:
    """Return a sentence, a hint, and line and column from 1 if known."""
    text = f"{exc.problem or ''}, {exc.context or ''}"
    opened = exc.context_mark if "while scanning a quoted scalar" in text else None
    mark = opened or exc.problem_mark or exc.context_mark
    place = (mark.line + 1, mark.column + 1) if mark else None
    begin = exc.context_mark.line + 1 if exc.context_mark else 1
    for needle, sentence, hint in _KNOWN:
        if needle in text:
            return f"not YAML: {sentence.format(line=begin)}", hint.format(), place
    return "not YAML: " + re.sub(r"\s+", " ", text.strip(", ")), None, place
