"""Whatever a process has in its memory: reading it ends, and costs a bounded number of reads."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import fake_core
import pytest
from fake_core import nt_file
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.collectors.core.block_cache import MAX_READS, BlockCache
from collector.collectors.core.dwarf_reader import DwarfError
from collector.collectors.core.frames import MAX_FRAMES
from collector.collectors.core.image import CoreImage
from collector.collectors.core.module import MAX_PACKAGE_BYTES, Module, package_of
from collector.collectors.core.summary import CoreSummary
from collector.collectors.core.traced import add_trace
from collector.collectors.core.unwind_rules import caller_of, evaluate, rules_at
from collector.collectors.core.unwind_table import FunctionEntry, find_function
from collector.host.core_memory import FileMemory, PickedMemory
from collector.host.core_segments import Segment, SegmentTable, content_offset, core_head
from collector.host.core_stream import head_of
from collector.host.corehead import HeadReader
from collector.host.elfcore import MACHINES, Layout, MappedFile

LAYOUT = Layout(word=8, order="<", machine="x86_64")
CODE, STACK = 0x40_0000, 0x7000_0000
TABLE_AT = CODE + 0x800


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def image_with(
    memory: dict[int, bytes], registers: tuple[int, ...], *, machine: int = 62, word: int = 8, order: str = "<"
) -> CoreImage:
    """Return a core of one thread with 64 KiB of code, mapped from a file, and 64 KiB of stack."""
    layout = Layout(word=word, order=order, machine=MACHINES[machine])
    notes = b"".join(
        fake_core.note(kind, desc, order=order)
        for kind, desc in (
            (1, fake_core.prstatus(42, 11, registers, machine=machine, word=word, order=order)),
            (6, struct.pack(order + ("4Q" if word == 8 else "4I"), 9, CODE + 0x100, 0, 0)),
            (0x53494749, fake_core.siginfo(11, 1, 0x10, machine=machine, word=word, order=order)),
            (0x46494C45, nt_file([(CODE, CODE + 65536, 0, b"/no/engine")], word=word, order=order)),
        )
    )
    segments = [Segment(CODE, 65536, 0, 4096, 5), Segment(STACK, 65536, 4096, 65536, 6)]
    header = fake_core.core(b"", machine=machine, word=word, order=order)[:64]
    head = b"".join(core_head(layout, header, len(notes), segments, count=2)) + notes
    data = head.ljust(content_offset(layout, len(notes), 2), b"\0")
    return CoreImage(head=head_of(HeadReader(data)), memory=PickedMemory(memory))


def no_file(_: MappedFile) -> int:
    raise FileNotFoundError


def facts_of(image: CoreImage) -> CoreSummary:
    summary = CoreSummary(path="", size_bytes=0, signal=image.signal)
    add_trace(summary, image, no_file)
    return summary


def x86(pc: int, sp: int, fp: int) -> tuple[int, ...]:
    values = [0] * 27
    values[16], values[19], values[4] = pc, sp, fp
    return tuple(values)


def arm64(pc: int, sp: int, fp: int, link: int) -> tuple[int, ...]:
    values = [0] * 34
    values[32], values[31], values[29], values[30] = pc, sp, fp, link
    return tuple(values)


def stack_of(*records: tuple[int, int]) -> dict[int, bytes]:
    """Return a stack of 64 KiB in which each offset holds a word."""
    raw = bytearray(65536)
    for offset, value in records:
        struct.pack_into("<Q", raw, offset, value)
    return {STACK: bytes(raw)}


def test_frame_pointers_are_followed_on_aarch64() -> None:
    """The pointers to code may be signed: their upper bits are no address."""
    memory = stack_of((0x100, STACK + 0x200), (0x108, CODE + 0x500 | 0x5A << 48), (0x200, 0), (0x208, CODE + 0x600))
    image = image_with(memory, arm64(CODE + 0x400, STACK + 0x80, STACK + 0x100, 0), machine=183)
    assert facts_of(image).frames == ("engine+0x400", "engine+0x500", "engine+0x600")


def test_frame_pointer_to_data_is_none_on_aarch64() -> None:
    """There, what is before a return address is not looked at."""
    memory = stack_of((0x100, STACK + 0x200), (0x108, STACK + 0x500))
    summary = facts_of(image_with(memory, arm64(CODE + 0x400, STACK + 0x80, STACK + 0x100, 0), machine=183))
    assert (summary.frames, summary.frames_end) == (
        ("engine+0x400",), "a return address is not in executable memory",
    )  # fmt: skip


def test_jump_to_nowhere_on_aarch64_came_from_its_link_register() -> None:
    image = image_with(stack_of(), arm64(0x10, STACK + 0x80, 0, CODE + 0x700), machine=183)
    assert facts_of(image).frames == ("0x10", "engine+0x700")


@pytest.mark.parametrize(
    ("records", "frames", "end"),
    [
        ([(0x100, STACK + 0x100), (0x108, CODE + 0x500)], 2, "no unwind table, and the frame pointer is none"),
        ([(0x100, STACK + 0x80), (0x108, CODE + 0x500)], 2, "no unwind table, and the frame pointer is none"),
        (
            [(0x100, STACK + 0x200), (0x108, STACK + 0x500)],
            1,
            "no unwind table, and the frame pointer leads to no call",
        ),
        ([(0x100, STACK + 0x20000), (0x108, CODE + 0x500)], 2, "no unwind table, and the frame pointer is none"),
        ([(0x100, STACK + 0x201), (0x108, CODE + 0x500)], 2, "no unwind table, and the frame pointer is none"),
        ([(0x100, 0), (0x108, CODE + 0x500)], 2, "no unwind table, and no more frame pointers"),
        ([], 1, "no unwind table, and the frame pointer is none"),
    ],
)
def test_frame_pointers_end_at_the_first_doubt(records: list[tuple[int, int]], frames: int, end: str) -> None:
    """In circles, downwards, to data, out of the stack, unaligned; at a zero, which may be no frame pointer at all."""
    summary = facts_of(image_with(stack_of(*records), x86(CODE + 0x400, STACK + 0x80, STACK + 0x100)))
    assert (len(summary.frames), summary.frames_end) == (frames, end)
    assert summary.signature_reason == f"it has {frames} frames: {end}"


def test_frame_pointers_that_lead_to_no_call_are_none() -> None:
    """Where the code is in the core, a return address has a call before it."""
    code = bytearray(4096)
    code[0x500 - 5] = 0xE8
    code[0x600 - 2 : 0x600] = b"\xff\xd0"  # call *%rax
    memory = {CODE: bytes(code)} | stack_of(
        (0x100, STACK + 0x200), (0x108, CODE + 0x500), (0x200, STACK + 0x300), (0x208, CODE + 0x600),
        (0x300, STACK + 0x400), (0x308, CODE + 0x700),
    )  # fmt: skip
    summary = facts_of(image_with(memory, x86(CODE + 0x400, STACK + 0x80, STACK + 0x100)))
    assert summary.frames == ("engine+0x400", "engine+0x500", "engine+0x600")
    assert summary.frames_end == "no unwind table, and the frame pointer leads to no call"


def test_frames_without_end_are_bounded() -> None:
    records = [(at, STACK + at + 16) for at in range(0x100, 0x4000, 16)]
    codes = [(at + 8, CODE + 0x500) for at in range(0x100, 0x4000, 16)]
    summary = facts_of(image_with(stack_of(*records, *codes), x86(CODE + 0x400, STACK + 0x80, STACK + 0x100)))
    assert (len(summary.frames), summary.frames_end) == (MAX_FRAMES, "the limit")


@pytest.mark.parametrize(
    ("machine", "word", "order", "registers"),
    [(62, 4, "<", 27), (8, 4, ">", 45), (4, 4, ">", 20), (3, 4, "<", 17), (40, 4, "<", 18), (21, 8, ">", 48),
     (183, 8, ">", 34), (22, 8, ">", 27), (243, 8, "<", 32)],
)  # fmt: skip
def test_core_of_any_machine_has_modules_and_its_program_counter(
    machine: int, word: int, order: str, registers: int
) -> None:
    """Frames of x86-64 and aarch64 are walked; of others there is one, if its registers are known."""
    summary = facts_of(image_with({}, (CODE,) * registers, machine=machine, word=word, order=order))
    assert (summary.program, summary.modules) == ("/no/engine", 1)
    assert summary.frames == (() if machine in {8, 4} else ("engine+0x0",))


def test_block_cache_reads_a_bounded_number_of_blocks() -> None:
    reads: list[int] = []

    def read(address: int, size: int) -> bytes:
        reads.append(address)
        return bytes(size)

    cache = BlockCache(read)
    for block in range(2 * MAX_READS):
        cache.read(block << 12, 8)
    assert len(reads) == MAX_READS


@pytest.mark.parametrize(
    "note", [b"", b"{", b'{"a": 1}', b'["x"]', b'{"a": "\\ud800"}', b"\xff\xfe", b'{"a": {"b": "c"}}', b"[" * 1024]
)
def test_package_note_that_is_none_is_nothing(note: bytes) -> None:
    assert package_of(Module(path=b"/x", start=0, end=1, package=note)) == {}


def test_package_note_is_escaped() -> None:
    note = b'{"name": "engine\\u001b[2J", "\\n": "\\u202e"}'
    found = package_of(Module(path=b"/x", start=0, end=1, package=note))
    assert all(text.isprintable() for pair in found.items() for text in pair)
    assert found["name"] == r"engine\x1b[2J"
    assert len(note) < MAX_PACKAGE_BYTES


class TwoBlocks:
    """Memory in which *data* repeats itself everywhere."""

    def __init__(self, data: bytes) -> None:
        self._data = (data or b"\0") * (4096 // max(1, len(data)) + 1)

    def read(self, address: int, size: int) -> bytes:
        return (self._data[address % 7 :] * 2)[:size]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, (1 << 64) - 1), st.sampled_from([62, 183]))
def test_core_with_any_memory_is_read_to_an_end(data: bytes, pc: int, machine: int) -> None:
    """Headers, notes, tables, stacks made of the same bytes: nothing but facts comes out."""
    registers = x86(CODE + pc % 65536, STACK + 0x100, pc) if machine == 62 else arm64(pc, STACK + 0x100, STACK, CODE)
    image = image_with({}, registers, machine=machine)
    object.__setattr__(image, "memory", TwoBlocks(b"\x7fELF\x02\x01\x01" + data))
    assert len(facts_of(image).frames) <= MAX_FRAMES


def entry_of(initial: bytes, program: bytes) -> FunctionEntry:
    return FunctionEntry(
        start=CODE, size=4096, is_signal=False, code_align=1, data_align=-8, return_register=16, initial=initial,
        program=program,
    )  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=64), st.binary(max_size=200), st.integers(0, 4095))
def test_any_instructions_are_rules_or_an_error(initial: bytes, program: bytes, offset: int) -> None:
    word_at: Callable[[int], int] = lambda address: address >> 3  # noqa: E731
    try:
        rules = rules_at(LAYOUT, entry_of(initial, program), CODE + offset)
        _, registers = caller_of(LAYOUT, rules, dict.fromkeys(range(17), STACK), word_at)
    except DwarfError:
        return
    assert all(0 <= value < 1 << 64 for value in registers.values())


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_any_expression_is_a_number_or_an_error(expression: bytes) -> None:
    try:
        assert 0 <= evaluate(LAYOUT, expression, {7: STACK}, lambda address: address, []) < 1 << 64
    except DwarfError:
        return


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 1 << 32))
def test_any_table_has_the_function_or_not(data: bytes, pc: int) -> None:
    raw = bytes((1, 0x1B, 3, 0x3B)) + data
    memory = PickedMemory({TABLE_AT: raw})
    try:
        found = find_function(LAYOUT, memory.read, TABLE_AT, pc)
    except DwarfError:
        return
    assert found is None or found.start <= pc < found.start + found.size


def test_core_file_with_offsets_beyond_all_files_has_no_memory() -> None:
    """Offsets and lengths that pread(2) does not take."""
    table = b"".join(
        struct.pack("<IIQQQQQQ", 1, 5, offset, address, 0, size, size, 4096)
        for address, offset, size in ((0x1000, (1 << 64) - 1, 1 << 62), (1 << 63, 1 << 62, 1 << 63))
    )
    fd = os.memfd_create("core")
    try:
        memory = FileMemory(fd, SegmentTable(LAYOUT, table))
        assert (memory.read(0x1000, 4096), memory.read((1 << 63) + 5, 8)) == (b"", b"")
    finally:
        os.close(fd)
