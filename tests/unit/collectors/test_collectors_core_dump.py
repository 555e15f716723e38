"""Dumps of other machines, and dumps that are none, sent through a pipe; the process that is read is the test's own."""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fake_core
import msgspec
import pytest
from collecting import Collected, collect, context, manual, take

from collector.collectors.core.core import Core
from collector.collectors.core.dump_content import CoreContent
from collector.collectors.core.stacks import RED_ZONE_BYTES
from collector.collectors.core.thread_state import ThreadState, thread_states
from collector.host.core_segments import Segment, content_offset, core_head
from collector.host.core_stream import CoreStream, DumpHead, read_head
from collector.host.elfcore import MACHINES, Layout
from collector.host.held_process import DumpSource, HeldProcess
from collector.host.memory import PAGE_BYTES
from collector.model.artifact import Artifact, Incoming
from collector.model.errors import StepError
from collector.model.marker import DUMP, HELD_DUMP, MarkerKind

MAP_32BIT = 0x40
NUMBERS = {"x86_64": 62, "i386": 3, "aarch64": 183, "arm": 40, "riscv": 243, "loongarch": 258, "ppc64": 21, "s390": 22}


@contextmanager
def sending(dump: bytes, *, hold_s: float = 30.0, hurry: str = "") -> Iterator[HeldProcess]:
    """Send *dump* of the test's own process through a pipe, to its end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(writer, dump)
    os.close(writer)
    now_s = time.monotonic()
    process = manual(os.getpid()).process
    assert process is not None
    held = HeldProcess(
        process=process,
        source=DumpSource.PIPE,
        stream_fd=reader,
        pidfd=os.pidfd_open(os.getpid()),
        since_s=now_s,
        deadline_s=now_s + hold_s,
        hurry=hurry,
    )
    try:
        yield held
    finally:
        held.release("the test is over")


def collect_dump(dump: bytes, content: str, **facts: Any) -> Collected:
    collected = Collected()
    with sending(dump, **facts) as held:
        ctx = dataclasses.replace(context(), held=held)
        try:
            for artifact in Core(content=CoreContent(content)).collect(ctx):
                collected.artifacts[str(artifact.path)] = taken(artifact)
        except StepError as exc:
            collected.error = exc
    return collected


def taken(artifact: Artifact) -> Any:
    if isinstance(artifact.body, Incoming):
        rest = iter(lambda: os.read(artifact.body.fd, 1 << 16), b"")  # type: ignore[union-attr]
        artifact = dataclasses.replace(artifact, body=artifact.body.head + b"".join(rest))
    return take(artifact)


def parsed(core: bytes) -> DumpHead:
    with os.fdopen(os.memfd_create("core"), "w+b") as file:
        file.write(core)
        file.seek(0)
        return read_head(CoreStream(file.fileno(), deadline_s=float("inf")))


def dump_of(notes: bytes, *segments: Segment, machine: int, word: int, order: str = "<") -> bytes:
    """Return the head of the dump of a process with *segments*."""
    layout = Layout(word=word, order=order, machine=MACHINES[machine])
    header = fake_core.core(b"", machine=machine, word=word, order=order)[:64]
    head = b"".join(core_head(layout, header, len(notes), segments, count=len(segments)))
    return (head + notes).ljust(content_offset(layout, len(notes), len(segments)), b"\0")


def with_stack(machine: str, sp: int, word: int, index: int) -> bytes:
    """Return the notes of a process whose only thread has its stack at *sp*, its register number *index*."""
    values = [0] * 36
    values[index] = sp
    number = NUMBERS[machine]
    return fake_core.note(1, fake_core.prstatus(42, 11, tuple(values), machine=number, word=word))


@pytest.mark.parametrize(
    ("machine", "word", "index"),
    [("x86_64", 8, 19), ("x86_64", 4, 19), ("i386", 4, 15), ("aarch64", 8, 31), ("arm", 4, 13), ("riscv", 8, 2),
     ("loongarch", 8, 3), ("ppc64", 8, 1), ("s390", 8, 17)],
)  # fmt: skip
def test_stack_is_found_on_each_machine(machine: str, word: int, index: int) -> None:
    """By the stack pointer, whose place among the registers differs, and with addresses of the core's size."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
    with mmap.mmap(-1, 8 * PAGE_BYTES, flags=flags) as mapping:
        mapping[:] = b"".join(bytes([number]) * PAGE_BYTES for number in range(1, 9))
        pointer = ctypes.c_char.from_buffer(mapping)
        start = ctypes.addressof(pointer)
        sp = start + 5 * PAGE_BYTES + RED_ZONE_BYTES
        segment = Segment(start, 8 * PAGE_BYTES, 0, 8 * PAGE_BYTES, 6)
        dump = dump_of(with_stack(machine, sp, word, index), segment, machine=NUMBERS[machine], word=word)
        collected = collect_dump(dump, "stacks")
        del pointer
    core = collected["core"]
    head = parsed(core)
    assert (head.layout.machine, head.layout.word) == (machine, word)
    empty, kept = head.segments()
    assert (empty.start, empty.file_bytes, empty.end, kept.end) == (start, 0, kept.start, segment.end)
    assert kept.start == start + 5 * PAGE_BYTES
    assert core[kept.offset :] == b"".join(bytes([number]) * PAGE_BYTES for number in range(6, 9))


def test_stacks_of_an_unknown_machine_are_its_notes_and_say_so() -> None:
    dump = fake_core.core(fake_core.crash(machine=999), machine=999)
    collected = collect_dump(dump, "stacks")
    assert collected.artifacts["core"].artifact.truncated.startswith("the registers of 999 are not known")
    assert bytes(parsed(collected["core"]).notes) == fake_core.crash(machine=999)


@pytest.mark.parametrize(
    ("machine", "word", "kind", "desc", "tls"),
    [
        ("aarch64", 8, 0x401, struct.pack("<QQ", 0x5000, 0), 0x5000),
        ("i386", 4, 0x200, struct.pack("<IIII", 6, 0x6000, 0xFFFFF, 0), 0x6000),
    ],
)
def test_thread_pointer_is_in_a_note_of_its_own(machine: str, word: int, kind: int, desc: bytes, tls: int) -> None:
    notes = with_stack(machine, 0x1000, word, {"aarch64": 31, "i386": 15}[machine]) + fake_core.note(
        kind, desc, name=b"LINUX\0"
    )
    layout = Layout(word=word, order="<", machine=machine)
    assert list(thread_states(layout, memoryview(notes * 2))) == [ThreadState(0, 0x1000, tls)] * 2


@pytest.mark.parametrize("content", list(CoreContent))
def test_dump_that_is_not_a_core_is_kept_and_fails(content: CoreContent) -> None:
    """A handler that was started by hand can send anything."""
    collected = collect_dump(b"not a core" * 20_000, content)
    assert collected["core"].startswith(b"not a core")
    assert content is not CoreContent.FULL or collected["core"] == b"not a core" * 20_000
    assert "not an ELF file" in str(collected.error)
    assert "not an ELF file" in collected.document("core.json")["problem"]


def test_dump_without_a_byte_fails() -> None:
    assert "it is empty" in str(collect_dump(b"", "full").error)


def test_dump_that_names_memory_of_nobody_costs_only_its_memory() -> None:
    """Segments that are not there, overlap, end beyond all addresses; a stack pointer at the end of memory."""
    top = (1 << 64) - PAGE_BYTES
    segments = (
        Segment(0x1000, 1 << 40, 0, 1 << 40, 6),
        Segment(0x2000, 1 << 62, 0, 1 << 62, 6),
        Segment(top, 1 << 62, 0, 1 << 62, 6),
    )
    for sp in (0, 0x1800, (1 << 64) - 8):
        dump = dump_of(with_stack("x86_64", sp, 8, 19), *segments, machine=62, word=8)
        for content in CoreContent:
            collected = collect_dump(dump, content, hold_s=1.5)
            assert collected.error is None
            assert len(collected["core"]) < 1 << 20


def test_core_names_arguments_without_their_secrets() -> None:
    collected = collect_dump(fake_core.core(fake_core.crash()), "notes")
    assert collected.document("core.json")["arguments"] == "engine --token [redacted]"


@pytest.mark.parametrize(
    ("dump", "why"),
    [
        (HELD_DUMP, "the dump ended before its core was taken: the process is not held any more"),
        ("over the budget of user 1000", "its dump was refused: over the budget of user 1000"),
        ("its dump was ended: it gave way", "its dump was ended: it gave way"),
    ],
)
def test_dump_that_did_not_come_is_missing(dump: str, why: str) -> None:
    """A crash whose core was offered is one that has a core: without it, the evidence is not complete."""
    marker = msgspec.structs.replace(manual(), kind=MarkerKind.DUMP, signal=11, attributes={DUMP: dump})
    collected = collect(Core(), context(marker))
    assert (collected.missing, collected.not_applicable) == (why, "")
