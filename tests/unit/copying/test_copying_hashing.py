from __future__ import annotations

import hashlib

from copying_fixtures import memory_kib

from collector.copying.hashing import Hasher
from collector.model.copying import Digest


def test_holes_are_digested_as_zeros_without_memory_for_them() -> None:
    """However long a hole is, no page is allocated to digest it."""
    hasher = Hasher(Digest.SHA256)
    hasher.zeros(1)  # makes all one-time allocations
    before = memory_kib("RssAnon", "RssShmem")
    hasher.zeros(3 << 20)
    assert memory_kib("RssAnon", "RssShmem") - before <= 64
    assert hasher.text() == f"sha256:{hashlib.sha256(bytes((3 << 20) + 1)).hexdigest()}"


def test_holes_are_digested_in_pieces_so_that_they_can_be_interrupted() -> None:
    """A hole of 16 TiB takes five minutes: the callback is called in between and may end it."""
    heard: list[int] = []
    whole, pieces = Hasher(Digest.XXH3_128), Hasher(Digest.XXH3_128)
    whole.zeros((2 << 30) + 5)
    pieces.zeros(1 << 30)
    pieces.zeros((1 << 30) + 5, meanwhile=lambda: heard.append(1))
    assert pieces.text() == whole.text()
    assert len(heard) == 1
