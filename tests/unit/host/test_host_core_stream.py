from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import fake_core
import pytest

from collector.host import core_stream
from collector.host.core_segments import Segment, SegmentTable, content_offset, core_head
from collector.host.core_stream import HEAD_BYTES, CoreStream, DumpHead, read_head
from collector.host.corefile import files_of
from collector.host.elf_notes import raw_notes
from collector.host.elfcore import CoreError, Layout
from collector.model.artifact import Truncated

NEVER_S = float("inf")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize(("machine", "word", "order"), [(62, 8, "<"), (183, 8, "<"), (3, 4, "<"), (22, 8, ">")])
def test_stream_keeps_what_it_has_read(pipe: tuple[int, int], machine: int, word: int, order: str) -> None:
    """The head, and what came with it, go on to whoever takes the rest."""
    notes = fake_core.crash(machine=machine, word=word, order=order)
    core = fake_core.core(notes, machine=machine, word=word, order=order, loads=3)
    os.write(pipe[1], core)
    head = read_head(CoreStream(pipe[0], deadline_s=NEVER_S))
    assert head.data == core
    assert bytes(head.notes) == notes
    assert [segment.file_bytes for segment in head.segments()] == [4096] * 3
    assert [note.type for note in raw_notes(head.layout, head.notes)].count(fake_core.NT_PRSTATUS) == 2


def test_stream_that_stalls_is_left_at_the_deadline() -> None:
    """A sender that stops within the head must not hold the worker."""
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.send(fake_core.core(fake_core.crash())[:200])
        with pytest.raises(CoreError, match="stopped after 200 bytes"):
            read_head(CoreStream(receiver.fileno(), deadline_s=time.monotonic() + 0.05))


def test_stream_may_be_non_blocking(pipe: tuple[int, int]) -> None:
    core = fake_core.core(fake_core.crash())
    os.set_blocking(pipe[0], False)
    os.write(pipe[1], core)
    assert read_head(CoreStream(pipe[0], deadline_s=NEVER_S)).data == core


def test_stream_that_ends_within_the_notes_has_those_before() -> None:
    core = fake_core.core(fake_core.crash())
    head = parsed(core[: core.index(b"engine --token")])
    assert head.notes_cut
    assert [note.type for note in raw_notes(head.layout, head.notes)] == [fake_core.NT_PRSTATUS]


def test_list_of_mapped_files_that_the_kernel_left_out_is_not_taken_for_cut_off(pipe: tuple[int, int]) -> None:
    """Of a core that is sent, no more than the head is there when its notes are read."""
    os.write(pipe[1], fake_core.core(fake_core.note(fake_core.NT_PRPSINFO, fake_core.prpsinfo(42, b"a", b"a")))[:-4096])
    head = read_head(CoreStream(pipe[0], deadline_s=time.monotonic() + 0.1))
    with pytest.raises(Truncated, match="the kernel leaves it out"):
        list(files_of(head.reader()))


def test_stream_of_endless_notes_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]) -> None:
    """The notes of 10,000 threads take 38 MiB; what is not read stays in the stream."""
    monkeypatch.setattr(core_stream, "HEAD_BYTES", 8192)
    monkeypatch.setattr(core_stream, "PIECE_BYTES", 1024)
    notes = fake_core.crash() * 20
    core = fake_core.core(notes)
    os.write(pipe[1], core[:65_000])
    head = read_head(CoreStream(pipe[0], deadline_s=NEVER_S))
    assert (head.header.note_bytes, HEAD_BYTES) == (len(notes), 6 << 20)
    assert len(head.data) <= 8192 + core_stream.PIECE_BYTES


@pytest.mark.parametrize(("word", "order"), [(8, "<"), (4, "<"), (8, ">"), (4, ">")])
def test_segment_table_is_read_as_it_is_written(word: int, order: str) -> None:
    """Of 32-bit cores and of either byte order."""
    layout = Layout(word=word, order=order, machine="x86_64")
    header = fake_core.core(b"", word=word, order=order)[:64]
    written = [Segment(0x1000, 0x2000, 0, 0x1000, 6), Segment(0x4000, 0x1000, 0x1000, 0, 5)]
    raw = b"".join(core_head(layout, header, 8, written, count=2))
    head = parsed(raw + bytes(8))
    base = content_offset(layout, 8, 2)
    assert list(head.segments()) == [one._replace(offset=one.offset + base) for one in written]
    assert base % 4096 == 0


def parsed(core: bytes) -> DumpHead:
    with os.fdopen(os.memfd_create("core"), "w+b") as file:
        file.write(core)
        file.seek(0)
        return read_head(CoreStream(file.fileno(), deadline_s=NEVER_S))


def test_segment_is_found_by_address() -> None:
    layout = Layout(word=8, order="<", machine="x86_64")
    header = fake_core.core(b"")[:64]
    written = [Segment(0x1000, 0x2000, 0, 0, 6), Segment(0x4000, 0x1000, 0, 0, 5)]
    table = parsed(b"".join(core_head(layout, header, 0, written, count=2))).segments()
    starts = {address: found.start if (found := table.find(address)) else None for address in ADDRESSES}
    assert starts == {0xFFF: None, 0x1000: 0x1000, 0x2FFF: 0x1000, 0x3000: None, 0x4FFF: 0x4000, 0x5000: None}
    following = {address: found.start if (found := table.after(address)) else None for address in ADDRESSES}
    assert list(following.values()) == [0x1000, 0x4000, 0x4000, 0x4000, None, None]
    assert SegmentTable(layout, b"").find(0) is None


ADDRESSES = (0xFFF, 0x1000, 0x2FFF, 0x3000, 0x4FFF, 0x5000)
