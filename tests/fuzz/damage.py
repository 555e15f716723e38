"""Well-formed input, damaged."""

from __future__ import annotations

import random


def damaged(whole: list[bytes], chance: random.Random, edits: int) -> bytes:
    """Return one of the inputs with some *edits*."""
    data = chance.choice(whole)
    for _ in range(edits):
        start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        end = min(end, start + 64)
        other = chance.choice(whole)
        at = chance.randrange(len(other) + 1)
        piece = chance.choice([b"", b"\xff", b"\0", b"\n", b"9" * 20, data[start:end] * 2, other[at : at + 64]])
        data = data[:start] + piece + data[end:]
    return data
