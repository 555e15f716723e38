"""Digests over the content of a file, holes included: what ``xxh128sum`` and ``sha256sum`` print."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import xxhash

from collector.copying.buffers import ZEROS
from collector.model.copying import Digest

HOLE_PIECE = 1 << 30


class _Algorithm(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Hasher:
    """A running digest. Updates of more than 2 KiB release the GIL."""

    def __init__(self, algorithm: Digest) -> None:
        self.algorithm = algorithm
        self._state: _Algorithm = xxhash.xxh3_128() if algorithm is Digest.XXH3_128 else hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._state.update(data)

    def zeros(self, size: int, *, meanwhile: Callable[[], object] = int) -> None:
        """Add a hole of *size* bytes; *meanwhile* is called for each GiB of it, about 60 times a second."""
        for start in range(0, size, HOLE_PIECE):
            if start:
                meanwhile()
            for at in range(start, min(size, start + HOLE_PIECE), len(ZEROS)):
                self._state.update(ZEROS[: size - at])

    def text(self) -> str:
        """Return ``ALGORITHM:HEX``."""
        return f"{self.algorithm}:{self._state.hexdigest()}"
