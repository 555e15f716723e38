"""Compressed cores: read as far as their notes, and said to be cut off if they are."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable

import fake_core
import lz4.frame
import pytest

from collector.host import unpack
from collector.host.compression import zstd
from collector.host.corefile import core_reader
from collector.host.elfcore import CoreError, CoreHeader, Note, notes

PLAIN = fake_core.core(fake_core.crash(), loads=50)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lz4": lz4.frame.compress,
}
EACH = pytest.mark.parametrize("name", PACKERS)


def read(fd: int, data: bytes) -> tuple[CoreHeader, list[Note], bool]:
    """Return the header, the notes, and whether the core is cut off."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    reader = core_reader(fd)
    header, found = notes(reader)
    every = list(found)
    return header, every, reader.is_cut_off(header.end_bytes)


def core_of(memory: bytes) -> bytes:
    """Return a core with *memory*, a multiple of 4 KiB, in its segments."""
    core = fake_core.core(fake_core.crash(), loads=len(memory) // 4096)
    return core[: -len(memory)] + memory


@EACH
def test_compressed_core_is_read(core_fd: int, name: str) -> None:
    """As systemd-coredump, or whoever moves cores away, leaves it."""
    header, found, cut_off = read(core_fd, PACKERS[name](PLAIN))
    assert (len(found), header.segments, cut_off) == (5, 51, False)


@EACH
def test_compressed_core_that_is_cut_off_is_read_as_far_as_it_goes(core_fd: int, name: str) -> None:
    """Damage after the notes does not hide them."""
    data = PACKERS[name](core_of(random.Random(1).randbytes(2 << 20)))
    _, found, cut_off = read(core_fd, data[: len(data) // 2])
    if name != "bzip2":  # whose first block of 900 kB is all or nothing
        assert len(found) == 5
    assert cut_off


@EACH
@pytest.mark.parametrize("missing", [1, 4, 12, 100])
def test_compressed_core_without_its_last_bytes_is_cut_off(core_fd: int, name: str, missing: int) -> None:
    """The decompressor has not seen the end."""
    data = PACKERS[name](core_of(random.Random(1).randbytes(1 << 20)))
    assert read(core_fd, data[:-missing])[2]


@EACH
def test_compressed_core_that_was_cut_off_before_is_cut_off(core_fd: int, name: str) -> None:
    """A limit ended the core, and all of what there was is compressed."""
    assert read(core_fd, PACKERS[name](PLAIN[:-1]))[2]


@EACH
def test_compressed_core_of_several_streams_is_read(core_fd: int, name: str) -> None:
    """pzstd, pbzip2 and bgzip write a stream for each part; zeros may follow."""
    pack = PACKERS[name]
    half = 700  # within the notes
    data = pack(PLAIN[:half]) + pack(b"") + pack(PLAIN[half:])
    assert len(read(core_fd, data)[1]) == 5
    assert not read(core_fd, data)[2]
    assert not read(core_fd, data + bytes(1024))[2]


@pytest.mark.parametrize("name", [name for name in PACKERS if name != "lzma"])  # its files have no end to look at
def test_compressed_core_larger_than_what_is_unpacked_tells_its_end(
    core_fd: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its structure tells whether the end is there."""
    monkeypatch.setattr(unpack, "LOOKAHEAD_BYTES", 1 << 16)
    monkeypatch.setattr(unpack, "MAX_BEHIND_BYTES", 1 << 16)
    data = PACKERS[name](core_of(random.Random(1).randbytes(1 << 20) + bytes(3 << 20)))
    assert not read(core_fd, data)[2]
    for missing in (1, 7, 40, 1000):
        assert read(core_fd, data[:-missing])[2]


@EACH
def test_compressed_core_that_unpacks_without_end_is_abandoned(
    core_fd: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decompression bomb in front of the notes costs a bounded amount of work."""
    monkeypatch.setattr(unpack, "MAX_UNPACKED_BYTES", 1 << 20)
    bomb = fake_core.note(2, bytes(8 << 20)) + fake_core.crash()
    assert read(core_fd, PACKERS[name](fake_core.core(bomb)))[1] == []


@EACH
def test_compressed_core_of_empty_streams_is_abandoned(
    core_fd: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They unpack to nothing, so that the limit of what is unpacked never ends them."""
    monkeypatch.setattr(unpack, "MAX_STREAMS", 100)
    with pytest.raises(CoreError, match="empty"):
        read(core_fd, PACKERS[name](b"") * 200 + PACKERS[name](PLAIN))


@EACH
def test_compressed_core_is_read_to_a_limit(core_fd: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty blocks within a stream cost work, too."""
    monkeypatch.setattr(unpack, "MAX_PACKED_BYTES", 1 << 16)
    data = PACKERS[name](core_of(random.Random(1).randbytes(1 << 20)))
    os.pwrite(core_fd, data, 0)
    reader = core_reader(core_fd)
    assert len(reader.read(1 << 20)) <= 1 << 17


def test_compressed_core_that_needs_much_memory_is_refused(core_fd: int) -> None:
    """The header would make the decoder allocate 128 MiB, or 64 MiB."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    with pytest.raises(CoreError, match=r"zstd .*memory"):
        read(core_fd, zstd.compress(os.urandom(32 << 20), options=options))
    with pytest.raises(CoreError, match=r"xz .*[Mm]emory"):
        read(core_fd, lzma.compress(PLAIN, preset=9))


@pytest.mark.parametrize("name", [name for name in PACKERS if name != "lz4"])
def test_compressed_core_that_is_damaged_names_its_format(core_fd: int, name: str) -> None:
    """The message says what was met."""
    data = bytearray(PACKERS[name](PLAIN))
    data[len(data) // 3 : -20] = random.Random(2).randbytes(len(data[len(data) // 3 : -20]))
    data[8:30] = b"\xff" * 22
    with pytest.raises(CoreError, match=f"its {name} data cannot be unpacked: "):
        read(core_fd, bytes(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x02\x21\x4c\x18rest", "lz4 in its legacy format.*`lz4 -d`"),
        (b"LZIP\x01rest", "lzip, which is not supported"),
        (b"\x1f\x9drest", "compress, which is not supported; unpack it with `uncompress`"),
        (b"PK\x03\x04rest", "zip"),
    ],
)
def test_compressed_core_of_another_format_is_refused_by_name(core_fd: int, data: bytes, why: str) -> None:
    """With the command that unpacks it."""
    with pytest.raises(CoreError, match=why):
        read(core_fd, data)


def test_compressed_core_of_lz4_is_refused_without_its_package(core_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never a dependency."""
    monkeypatch.setitem(sys.modules, "lz4.frame", None)  # as if it were not installed
    with pytest.raises(CoreError, match="Python package lz4 is not installed; unpack it with `lz4 -d`"):
        read(core_fd, b"\x04\x22\x4d\x18" + bytes(60))


def test_libraries_are_imported_for_the_first_file_only() -> None:
    """An idle daemon does not hold them."""
    code = "import sys, collector.host.unpack; print(sorted({'lzma', 'bz2', 'zlib', 'lz4'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@EACH
def test_compressed_contents_are_whole_wherever_input_and_output_are_divided(core_fd: int, name: str) -> None:
    """A decompressor may hold the first bytes of a block, and give nothing until it has the others."""
    chance = random.Random(1)
    contents = b"".join(chance.randbytes(400) + bytes(5_000) for _ in range(40))
    packed = PACKERS[name](contents)
    os.pwrite(core_fd, packed, 0)
    compression = unpack.compression_of(packed[:8])
    assert compression is not None
    for most in range(1, 60):
        reader = unpack.UnpackingReader(
            core_fd, compression, read_packed=lambda _, offset, most=most: os.pread(core_fd, most, offset)
        )
        pieces = []
        while sum(map(len, pieces)) < len(contents):
            pieces.append(reader.read(chance.choice([1, 400, 5_000, 5_400, 1 << 17])))
            assert pieces[-1], (most, sum(map(len, pieces)))
        assert b"".join(pieces) == contents
