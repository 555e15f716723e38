"""Whatever a core says, a diagnosis is at most a wrong core's fault: it ends, is printable, and breaks nothing."""

from __future__ import annotations

import random
import struct
import tempfile

import fake_core
import pytest
from collecting import collect, context, core_ref, manual
from crash_facts import PID, SparseMemory, crash_facts
from hypothesis import given
from hypothesis import strategies as st

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.core.diagnosis_facts import MappedFileState
from collector.collectors.core.diagnosis_of import diagnose
from collector.host.core_memory import FileMemory
from collector.host.core_segments import Segment
from collector.host.core_stream import DumpHead
from collector.model.redaction import Redaction

WORDS = st.one_of(st.integers(0, 1 << 17), st.integers(0, (1 << 64) - 1), st.integers((1 << 64) - 9000, (1 << 64) - 1))
NEAR = st.builds(
    lambda base, by: (base + by) % (1 << 64), st.sampled_from([0x10_0000, 0x20_0000]), st.integers(-999, 999)
)
ADDRESSES = st.one_of(WORDS, NEAR)
SEGMENTS = st.builds(
    Segment,
    st.one_of(st.sampled_from([0x10_0000, 0x20_0000, 0xFF_F000]), WORDS),
    st.one_of(st.just(0x10_0000), WORDS),
    st.just(0),
    WORDS,
    st.integers(0, 7),
)
FILES = st.tuples(ADDRESSES, ADDRESSES, WORDS, st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b"")))
STATES = st.none() | st.builds(
    MappedFileState,
    st.integers(0, 1 << 63),
    st.sampled_from(["tmpfs", "ext4", "hugetlbfs"]),
    st.none() | st.integers(0, 1 << 63),
    st.none() | st.integers(-(1 << 63), 1 << 63),
)


@given(
    signal=st.sampled_from([4, 5, 6, 7, 8, 11, 24, 25, 31]),
    code=st.sampled_from([1, 2, 3, 4, 5, 0x80, 0, -6]),
    address=ADDRESSES,
    pc=ADDRESSES,
    sp=ADDRESSES,
    tls=ADDRESSES,
    segments=st.lists(SEGMENTS, max_size=6),
    files=st.lists(FILES, max_size=4),
    content=st.binary(max_size=64),
    state=STATES,
    tid=st.sampled_from([PID, PID + 1]),
)
def test_diagnosis_of_any_facts_ends_and_is_printable(
    signal: int,
    code: int,
    address: int,
    pc: int,
    sp: int,
    tls: int,
    segments: list[Segment],
    files: list[tuple[int, int, int, bytes]],
    content: bytes,
    state: MappedFileState | None,
    tid: int,
) -> None:
    """A null pointer is only what the kernel gave an address for, and a full tmpfs only a page within the file."""
    memory = {0x10_0000: content * 64, sp: content}
    facts = crash_facts(
        signal, code, address, pc=pc, sp=sp, tls=tls, tid=tid, segments=segments, files=files, memory=memory,
        state=lambda _: state,
    )  # fmt: skip
    found = diagnose(facts, Redaction())
    if found is None:
        return
    assert found.text.isprintable()
    assert len(found.text) < 6000
    if found.kind in {"null_pointer", "null_call"}:
        assert (signal, code) == (11, 1)
        assert address < 4096
    if found.kind == "tmpfs_full":
        assert state is not None
        assert (signal, code) == (7, 2)
        assert state.free_bytes is not None
    if found.kind == "stack_overflow" and code != 0x80:
        assert sp - 136 <= address


@pytest.mark.parametrize("seed", range(60))
def test_damaged_core_costs_only_its_diagnosis(seed: int) -> None:
    """Offsets and lengths beyond the file and beyond 63 bits: the step says what is wrong with the core."""
    chance = random.Random(seed)
    data = bytearray(fake_core.core(fake_core.crash(), loads=3))
    for _ in range(chance.randrange(1, 12)):
        at = chance.randrange(64, len(data) - 4096 * 3)
        size = chance.choice([1, 4, 8])
        data[at : at + size] = chance.choice([b"\xff" * size, bytes(size), chance.randbytes(size)])
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        done = collect(Core(keep=KeepCore.NONE), context(manual(core=core_ref(file.name))))
    assert "core.json" in done


def test_memory_of_the_made_up_crash_ends_where_its_pieces_do() -> None:
    memory = SparseMemory({16: b"abcd"})
    assert [memory.read(at, 4) for at in (15, 16, 18, 20)] == [b"", b"abcd", b"cd", b""]


@pytest.mark.parametrize("offset", [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_memory_of_a_core_is_not_where_no_file_reaches(offset: int) -> None:
    """pread(2) takes 63 bits; a core may claim 64."""
    loads = [Segment(0x1000, 0x1000, 0, 0x1000, 6)]
    facts = crash_facts(11, 1, 0, segments=loads, files=())
    data = bytearray(facts.image.head.data)
    struct.pack_into("<Q", data, 64 + 56 + 8, offset)
    with tempfile.TemporaryFile() as file:
        segments = DumpHead(data=bytes(data), header=facts.image.head.header).segments()
        assert segments[0].offset == offset
        assert FileMemory(file.fileno(), segments).read(0x1800, 8) == b""
