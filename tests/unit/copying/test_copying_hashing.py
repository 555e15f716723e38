from __future__ import annotations

import hashlib
import os
import random
import struct
from pathlib import Path

import pytest
from copying_fixtures import memory_kib
from xxhash import xxh3_128_hexdigest

from collector.copying import hashing
from collector.copying.hashing import Hasher
from collector.model.copying import Digest
from collector.model.errors import CopyError


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


def file_of(path: Path, size: int, pieces: dict[int, bytes]) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    for offset, data in pieces.items():
        os.pwrite(fd, data, offset)
    return fd


def test_digest_of_very_long_holes_takes_no_time(tmp_path: Path) -> None:
    """15 TiB of hole are skipped; the digest differs by what is in the file, where, and by its length."""
    long = 15 << 40
    found = set()
    contents: list[dict[int, bytes]] = [{}, {0: b"x"}, {4096: b"x"}, {long - 1: b"x"}]
    files = [*((long, pieces) for pieces in contents), (long - 4096, {}), (long - 1, {})]
    for number, (size, pieces) in enumerate(files):
        fd = file_of(tmp_path / str(number), size, pieces)
        text = hashing.digest(fd, rate="max")
        assert text.startswith("xxh3_128-sparse:")
        assert hashing.digest_again(fd, "xxh3_128-sparse", rate="max") == text
        with pytest.raises(CopyError, match="holes of more than 256 GiB"):
            hashing.digest_again(fd, "sha256", rate="max")
        os.close(fd)
        found.add(text)
    assert len(found) == 6


def test_sparse_digest_does_not_depend_on_where_holes_are_kept() -> None:
    """Zeros that were written are as good as a hole, in whatever pieces they come; the definition stays."""
    rng = random.Random(1)
    data = bytearray(5 * hashing.BLOCK + 17)
    for start in (0, 3 * hashing.BLOCK - 5, 5 * hashing.BLOCK):
        data[start : start + 10] = b"0123456789"
    texts = set()
    for _ in range(20):
        hasher, at = hashing.SparseHasher(Digest.SHA256), 0
        while at < len(data):
            size = min(rng.choice((1, 4096, hashing.BLOCK, 3 * hashing.BLOCK)), len(data) - at)
            piece = bytes(data[at : at + size])
            hasher.update(piece) if any(piece) or rng.random() < 0.5 else hasher.zeros(size)
            at += size
        texts.add(hasher.text())
    expected = hashlib.sha256()
    for start in (0, 2, 3, 5):
        expected.update(struct.pack("<Q", start * hashing.BLOCK))
        expected.update(data[start * hashing.BLOCK : (start + 1) * hashing.BLOCK])
    expected.update(struct.pack("<Q", len(data)))
    assert texts == {f"sha256-sparse:{expected.hexdigest()}"}


def test_digest_of_shorter_holes_is_that_of_the_content(tmp_path: Path) -> None:
    """What `xxh128sum` prints, and what earlier releases have put into manifests."""
    fd = file_of(tmp_path / "file", 1 << 20, {4096: b"x"})
    content = (tmp_path / "file").read_bytes()
    assert hashing.digest(fd) == hashing.digest_again(fd, "xxh3_128") == f"xxh3_128:{xxh3_128_hexdigest(content)}"
    assert hashing.digest_again(fd, "sha256") == f"sha256:{hashlib.sha256(content).hexdigest()}"
    for kind in ("md5", "none", "", "xxh3_128-sparse-sparse", "\x1b[2J"):
        with pytest.raises(CopyError, match="unknown kind"):
            hashing.digest_again(fd, kind)
    os.close(fd)
