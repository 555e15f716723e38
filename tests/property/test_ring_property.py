"""The ring of the flight recorder, against a deque of the same length."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model.recording import SECOND, RecorderSettings, Recording, memory_bytes
from collector.model.ring import Ring, ring_bytes


def row_of(number: int, length: int) -> bytes:
    return number.to_bytes(4, "little") * (length // 4)


@given(rows=st.integers(1, 40), words=st.integers(1, 8), written=st.integers(0, 130), newest=st.integers(0, 50))
def test_ring_holds_the_last_rows(rows: int, words: int, written: int, newest: int) -> None:
    """As many as it was made for, the oldest first, however often it has wrapped."""
    length = 4 * words
    ring = Ring(memoryview(bytearray(ring_bytes(rows, length))), length)
    model: deque[bytes] = deque(maxlen=rows)
    assert ring.last() is None
    for number in range(written):
        ring.append(row_of(number, length))
        model.append(row_of(number, length))
    assert list(ring.rows()) == list(model)
    assert list(ring.rows(newest=newest)) == list(model)[max(0, len(model) - newest) :]
    assert ring.last() == (model[-1] if model else None)
    assert ring.written == written


@given(rows=st.integers(1, 12), written=st.integers(0, 30), meanwhile=st.lists(st.integers(0, 3), max_size=12))
def test_ring_leaves_out_rows_that_are_overwritten_while_it_is_read(
    rows: int, written: int, meanwhile: list[int]
) -> None:
    """A reader in another process gets whole rows in their order; those it was too late for are missing."""
    ring = Ring(memoryview(bytearray(ring_bytes(rows, 8))), 8)
    for number in range(written):
        ring.append(row_of(number, 8))
    found, total, reading = [], written, ring.rows()
    for more in [*meanwhile, *[0] * rows]:
        row = next(reading, None)
        if row is None:
            break
        found.append(row)
        for _ in range(more):
            ring.append(row_of(total, 8))
            total += 1
    known = [row_of(number, 8) for number in range(written)]
    assert found == [row for row in known if row in found]


def test_ring_is_shared_by_its_memory() -> None:
    """Whoever has the memory has the rows."""
    memory = memoryview(bytearray(ring_bytes(3, 8)))
    Ring(memory, 8).append(b"12345678")
    assert list(Ring(memory, 8).rows()) == [b"12345678"]


@given(damage=st.binary(min_size=ring_bytes(3, 8), max_size=ring_bytes(3, 8)), written=st.integers(0, 9))
def test_ring_goes_on_whatever_its_memory_holds(damage: bytes, written: int) -> None:
    """A worker that was taken over shares it: it can spoil rows, and not end the supervisor."""
    ring = Ring(memoryview(bytearray(damage)), 8)
    for number in range(written):
        ring.append(row_of(number, 8))
    assert len(list(ring.rows())) <= ring.capacity
    assert ring.last() is None or len(ring.last() or b"") == 8


def test_ring_goes_on_after_the_largest_count() -> None:
    """Written there by nobody but a broken worker."""
    memory = memoryview(bytearray(b"\xff" * 8 + bytes(ring_bytes(3, 8) - 8)))
    Ring(memory, 8).append(b"12345678")
    assert Ring(memory, 8).written == 0


def test_ring_refuses_rows_of_another_length() -> None:
    ring = Ring(memoryview(bytearray(ring_bytes(3, 8))), 8)
    with pytest.raises(ValueError, match="not 8"):
        ring.append(b"1234567")
    with pytest.raises(ValueError, match="no room"):
        Ring(memoryview(bytearray(23)), 8)


@given(period_s=st.floats(0.5, 60.0), keep_s=st.floats(0.5, 1800.0))
def test_recording_goes_back_as_far_as_it_is_told(period_s: float, keep_s: float) -> None:
    """For any period, the rows of that time are there."""
    settings = RecorderSettings(period_s=period_s, keep_s=keep_s)  # type: ignore[arg-type]
    recording = Recording(memoryview(bytearray(memory_bytes(settings))), settings)
    assert recording.seconds.capacity == settings.rows
    assert settings.rows * period_s >= keep_s > (settings.rows - 1) * period_s
    recording.start(boot_ns=5, wall_ns=7, by_hand=True)
    assert recording.origin == (5, 7, True)
    recording.seconds.append(bytes(SECOND.size))
    assert recording.rounds.written == 0
