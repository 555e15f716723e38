from __future__ import annotations

import hashlib
from pathlib import Path

from collector.copying.hashing import Hasher
from collector.model.copying import Digest


def test_holes_are_digested_as_zeros_without_memory_for_them() -> None:
    """A hole is as long as it likes: no page is allocated to digest it."""
    hasher = Hasher(Digest.SHA256)
    hasher.zeros(1)  # whatever is allocated once
    before = resident_kib()
    hasher.zeros(3 << 20)
    assert resident_kib() - before <= 64
    assert hasher.text() == f"sha256:{hashlib.sha256(bytes((3 << 20) + 1)).hexdigest()}"


def resident_kib() -> int:
    """Return the process's anonymous and shared memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
