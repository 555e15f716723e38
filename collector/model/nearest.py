"""The word that was probably meant by one that does not exist."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection

# difflib compares a word with each known one: bounded, so that a thousand mistakes are reported quickly.
MAX_WORD = 60


def nearest(word: str, known: Collection[str]) -> str | None:
    """Return the word of *known* that is closest, if one is close."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6) if len(word) <= MAX_WORD else []
    near = near or [each for each in known if each.lower() == word.lower() or (len(word) > 2 and each.startswith(word))]
    return max(near, key=lambda each: _shared_beginning(word, each)) if near else None


def _shared_beginning(one: str, other: str) -> int:
    """Return the length of the common prefix: people misspell the ends of words."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
