"""Characters that look like those of YAML and of globs and are others: wikis and word processors put them there."""

from __future__ import annotations

import re
from typing import NamedTuple

# What is drawn like another character, and the word for that one.
_DRAWN_LIKE = {
    '"': ("a double quote", "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u300c\u300d\uff02"),
    "'": ("a single quote", "\u2018\u2019\u201a\u201b\u2039\u203a\u2032\u00b4\uff07"),
    "-": ("a hyphen", "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"),
    " ": ("a space", "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"),
    "": ("nothing", "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067"
         "\u2068\u2069\ufeff"),
    "\n": ("a line break", "\u0085\u2028\u2029"),
    ":": ("a colon", "\uff1a\ufe55\ua789\u2236"),
    "*": ("an asterisk", "\u2217\uff0a\u204e"),
    "?": ("a question mark", "\uff1f"),
    ",": ("a comma", "\uff0c\u201a"),
    "[": ("a bracket", "\uff3b"),
    "]": ("a bracket", "\uff3d"),
    "/": ("a slash", "\u2215\u2044\uff0f"),
    ".": ("a full stop", "\uff0e\u2024"),
    "%": ("a percent sign", "\uff05"),
}  # fmt: skip
_MEANT = {char: (plain, word) for plain, (word, chars) in reversed(_DRAWN_LIKE.items()) for char in chars}
_ANY = re.compile(f"[{re.escape(''.join(_MEANT))}]")
# Greek and Cyrillic letters have the shapes of Latin ones: in one word with these, they are slips of a keyboard.
_MIXED = re.compile(r"(?<=[A-Za-z])[\u0370-\u03ff\u0400-\u04ff]|[\u0370-\u03ff\u0400-\u04ff](?=[A-Za-z])")


class Lookalike(NamedTuple):
    """
    A character that is probably another one than its author believes.

    *offset* is its place in the text. *at_edge*: it begins or ends the text, where its double has a meaning to YAML.
    """

    offset: int
    message: str
    hint: str
    at_edge: bool


def find_lookalike(text: str) -> Lookalike | None:
    """Return the first one in *text* as it stands in the file, so without escapes; ``None`` if all is well."""
    if text.isascii():
        return None
    for found in _ANY.finditer(text):
        if not _is_prose(text, found.start()):
            plain, word = _MEANT[found.group()]
            is_at_edge = not text[: found.start()].strip() or not text[found.end() :].strip()
            said = f"looks like {word} and is not" if plain else "cannot be seen"
            return Lookalike(found.start(), f"{_name(found.group())} {said}", _hint(plain, found.group()), is_at_edge)
    if mixed := _MIXED.search(text):
        message = f"{_name(mixed.group())} looks like a Latin letter and is not"
        return Lookalike(mixed.start(), message, "type the word again", at_edge=False)
    return None


def _name(char: str) -> str:
    """Return the character, if it can be seen, and its number."""
    number = f"U+{ord(char):04X}"
    return f"{char} ({number})" if char.isprintable() else f"the character {number}"


def _hint(plain: str, char: str) -> str:
    instead = {"": "remove it", " ": "type a space", "\n": "begin a new line"}.get(plain, f"type {plain}")
    return f'{instead}; if it is meant, write "\\u{ord(char):04x}"'


def _is_prose(text: str, index: int) -> bool:
    """Return whether a sentence may have the character there: an apostrophe within a word, a dash between words."""
    before, char, after = text[index - 1 : index], text[index], text[index + 1 : index + 2]
    if char == "\u2019":
        return before.isalpha() and after.isalpha()
    return _MEANT[char][0] == "-" and before == " " and after == " "
