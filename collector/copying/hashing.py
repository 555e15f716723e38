"""Digests over the content of a file, holes included: what ``xxh128sum`` and ``sha256sum`` print."""

from __future__ import annotations

import hashlib
from typing import Protocol

import xxhash

from collector.copying.buffers import ZEROS
from collector.model.copying import Digest


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

    def zeros(self, size: int) -> None:
        """Add a hole of *size* bytes."""
        while size > 0:
            self._state.update(ZEROS[:size])
            size -= len(ZEROS)

    def text(self) -> str:
        """Return ``ALGORITHM:HEX``."""
        return f"{self.algorithm}:{self._state.hexdigest()}"
