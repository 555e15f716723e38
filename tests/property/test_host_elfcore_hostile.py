from __future__ import annotations

import bz2
import gzip
import importlib.util
import lzma
import os
import random
import tempfile

import fake_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.collectors.core.notes import parse_process, parse_signal, parse_thread
from collector.host.compression import zstd
from collector.host.corefile import core_reader
from collector.host.elfcore import MAX_KEPT_BYTES, CoreError, Layout, notes
from collector.host.mapped_files import MappedFileTable

NT_FILE_AND_NAME = fake_core.NT_FILE.to_bytes(4, "little") + b"CORE\0\0\0\0"
WHOLE = fake_core.core(fake_core.crash())
PACKERS = {"zstd": zstd.compress, "xz": lzma.compress, "gzip": gzip.compress, "bzip2": bz2.compress}
if importlib.util.find_spec("lz4"):
    PACKERS["lz4"] = importlib.import_module("lz4.frame").compress
LAYOUTS = st.builds(
    Layout,
    word=st.sampled_from([4, 8]),
    order=st.sampled_from("<>"),
    machine=st.sampled_from(["x86_64", "arm", "mips", "m68k", "x"]),
)


def read_all(data: bytes) -> int:
    """Read a core to its end; return how many bytes its notes hold."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            reader = core_reader(file.fileno())
            header, found = notes(reader)
            total = 0
            for note in found:
                total += len(note.desc)
                parse_thread(header.layout, note.desc)
                parse_process(header.layout, note.desc)
                parse_signal(header.layout, note.desc)
                total += sum(len(mapped.path) for mapped in MappedFileTable(header.layout, note.desc))
            reader.is_cut_off(header.end_bytes)
        except CoreError:
            return 0
        return total


@given(seed=st.integers(), flips=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_core_with_flipped_bytes_is_read_or_refused(seed: int, flips: int) -> None:
    """Damage anywhere raises nothing but CoreError, and no more bytes are returned than there are."""
    chance = random.Random(seed)
    data = bytearray(WHOLE)
    for _ in range(flips):
        data[chance.randrange(len(WHOLE) - 4096)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    assert read_all(bytes(data)) <= 2 * len(data)


@pytest.mark.parametrize("name", PACKERS)
@given(seed=st.integers(), flips=st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_compressed_core_with_flipped_bytes_is_read_or_refused(name: str, seed: int, flips: int) -> None:
    """Damage to what a decompressor reads raises nothing but CoreError, either."""
    chance = random.Random(seed)
    data = bytearray(PACKERS[name](WHOLE))
    for _ in range(flips):
        data[chance.randrange(4, len(data))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    del data[chance.randrange(len(data) // 2, len(data) + 1) :]
    read_all(bytes(data))


@given(st.binary(max_size=2000), st.booleans())
@settings(max_examples=150, deadline=None)
def test_core_of_any_bytes_is_read_or_refused(tail: bytes, magic: bool) -> None:
    """Bytes that were never a core."""
    assert read_all((b"\x7fELF\x02\x01\x01" + bytes(9) if magic else b"") + tail) <= 2 * len(tail) + 32


@given(layout=LAYOUTS, desc=st.binary(max_size=600))
@settings(max_examples=200, deadline=None)
def test_notes_of_any_bytes_are_parsed_or_refused(layout: Layout, desc: bytes) -> None:
    """No parser of a note raises, whatever the note contains."""
    parse_thread(layout, desc)
    parse_process(layout, desc)
    parse_signal(layout, desc)
    assert sum(len(mapped.path) for mapped in MappedFileTable(layout, desc)) <= len(desc)


def test_a_core_that_is_one_hole_costs_nothing() -> None:
    """A sparse file of 1 TiB whose notes claim all of it."""
    header = bytearray(fake_core.core(b"", loads=0))
    header[64 + 32 : 64 + 40] = (1 << 40).to_bytes(8, "little")  # p_filesz of PT_NOTE
    with tempfile.TemporaryFile() as file:
        file.write(header)
        file.flush()
        os.ftruncate(file.fileno(), 1 << 40)
        _, found = notes(core_reader(file.fileno()))
        assert list(found) == []


def test_a_core_that_claims_endless_notes_is_read_to_a_limit() -> None:
    """A sparse file with a note of 4 MiB every 4 MiB: 4 GiB of claims in a few pages of data."""
    step = (4 << 20) + 20
    header = bytearray(fake_core.core(b"", loads=0))
    header[64 + 32 : 64 + 40] = (1024 * step).to_bytes(8, "little")
    head = fake_core.note(fake_core.NT_FILE, b"")[:4] + (4 << 20).to_bytes(4, "little") + NT_FILE_AND_NAME
    with tempfile.TemporaryFile() as file:
        file.write(header)
        for number in range(1024):
            file.seek(len(header) + number * step)
            file.write(head)
        file.truncate(len(header) + 1024 * step)
        file.flush()
        _, found = notes(core_reader(file.fileno()))
        assert sum(len(note.desc) for note in found) <= MAX_KEPT_BYTES
