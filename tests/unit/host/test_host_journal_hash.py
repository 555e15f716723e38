"""The hashes of journal files, by the vectors of those who defined them."""

from __future__ import annotations

import pytest

from collector.host.journal_hash import jenkins64, siphash24
from collector.host.journal_unpack import LZ4, ZSTD, UnpackError, lz4_block, unpacked


def test_siphash_is_that_of_its_authors() -> None:
    """Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", appendix A."""
    assert siphash24(bytes(range(15)), bytes(range(16))) == 0xA129CA6149BE45E5


@pytest.mark.parametrize(
    ("data", "hashed"), [(b"", 0xDEADBEEF_DEADBEEF), (b"Four score and seven years ago", 0x17770551_CE7226E6)]
)
def test_jenkins_is_that_of_lookup3(data: bytes, hashed: int) -> None:
    """Source: lookup3.c, driver5()."""
    assert jenkins64(data) == hashed


def test_lz4_block_repeats_what_overlaps() -> None:
    """A match may reach into what it appends: that is how a run is encoded."""
    assert lz4_block(b"\x1fa\x01\x00\x05\x10b", 100) == b"a" * 25 + b"b"
    assert lz4_block(b"\x1fa\x01\x00\xff\xff\xff\x00", 50) == b"a" * 50


@pytest.mark.parametrize("packed", [b"\x10a\x02\x00", b"\x10a\x00\x00", b"\x00\x01\x00"])
def test_lz4_block_refuses_a_match_before_the_beginning(packed: bytes) -> None:
    """A damaged block costs one field."""
    with pytest.raises(UnpackError):
        unpacked(LZ4, bytes(8) + packed, 100)


def test_damaged_zstd_is_an_error() -> None:
    """Of the same kind."""
    with pytest.raises(UnpackError):
        unpacked(ZSTD, b"no frame at all", 100)
