"""What is legal YAML and was probably not meant: warnings, which do not stop anything."""

from __future__ import annotations

import pytest

from collector.config.lookalikes import find_lookalike
from collector.config.parse import parse
from collector.config.slips import find_slip

CURLY = "looks like a double quote and is not"


def said(text: str) -> list[str]:
    tree, diagnostics = parse(text.encode(), "f")
    assert tree is not None
    return [str(diagnostic) for diagnostic in diagnostics]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a: "\u201cengine.*\u201d"', f"f:1:5: warning: \u201c (U+201C) {CURLY}"),
        ("a: engine.\u201c*\u201d.core", f"f:1:11: warning: \u201c (U+201C) {CURLY}"),
        ('a: "x\n  y\u00a0z"', "f:2:4: warning: the character U+00A0 looks like a space and is not"),
        ("a: core\u2013*", "f:1:8: warning: \u2013 (U+2013) looks like a hyphen and is not"),
        ("a: /srv/\u200bcrash", "f:1:9: warning: the character U+200B cannot be seen"),
        ("a: /srv/\u0441rash", "f:1:9: warning: \u0441 (U+0441) looks like a Latin letter and is not"),
        ("a: [\uff0a.core]", "f:1:5: error: \uff0a (U+FF0A) looks like an asterisk and is not"),
        ("a: /x\n  b c", "f:2:3: warning: the text of the line above goes on here"),
        ("a: /x\n  b:c", "f:2:4: error: a space is missing after the colon"),
        ('a: /x"', 'f:1:4: warning: a " ends this text and none begins it'),
    ],
)
def test_config_text_that_was_hardly_meant_is_pointed_out(text: str, message: str) -> None:
    """With the place of the character itself, and its number: it cannot be told by looking."""
    (first, *_) = said(text)
    assert first.startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        'a: "\\u201cquoted\\u201d"',
        "a: it\u2019s meant",
        "a: Berlin \u2013 Mitte",
        "a: K\u00f6ln",
        "a: \u041c\u043e\u0441\u043a\u0432\u0430",
        "# \u201ccomment\u201d\na: 1",
        "a: http://x:80/y",
        "a: >\n  text\n  b:c",
        'a: "x\n  b:c"',
        "a: [1,\n  2]",
    ],
)
def test_config_text_that_may_be_meant_is_left_alone(text: str) -> None:
    """An escape says that it is meant, and prose has apostrophes, dashes and alphabets of its own."""
    assert said(text) == []


def test_config_lookalike_of_ascii_is_none() -> None:
    """Most text is ASCII, and costs no search."""
    assert find_lookalike("\"*.core\" - 'x': [?]") is None


@pytest.mark.parametrize("text", ["key: value", "- key: value", "http://x", "--flag", "---", "a == b", "-", "word", ""])
def test_config_slip_is_not_seen_in_what_is_right(text: str) -> None:
    """What has its space, or was never a key, is no slip."""
    assert find_slip(text) is None
