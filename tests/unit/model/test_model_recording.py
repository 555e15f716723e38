"""Rows of the flight recorder, and rounds over all processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.model.recording import (
    COLUMNS,
    DISKS,
    MAX_ROUNDS,
    MISSING,
    NO_DISK,
    SECOND,
    RecorderSettings,
    Recording,
    disk_key,
    memory_bytes,
    read_second,
)
from collector.model.top_processes import (
    LARGEST,
    ROUND_S,
    STATE_BYTES,
    VISITS,
    VISITS_BYTES,
    RoundState,
    TopProcess,
    Visits,
    read_round,
)
from collector.model.units import Seconds

PROCESSES = st.lists(
    st.builds(
        TopProcess,
        pid=st.integers(1, 1 << 22),
        comm=st.binary(min_size=1, max_size=15).filter(lambda name: not name.endswith(b"\0")),
        start_ticks=st.integers(0, 1 << 40),
        rss_bytes=st.integers(0, 1 << 44),
        cpu=st.none() | st.integers(0, 128_000),
    ),
    max_size=60,
)


def test_recording_row_says_what_is_missing() -> None:
    """A kernel without PSI, a machine with one disk."""
    figures = [MISSING] * len(COLUMNS)
    figures[:1] = [1_500_000_000]
    disks = [disk_key(8, 16), 1, 2, 3, 4, *NO_DISK * (DISKS - 1)]
    second = read_second(SECOND.pack(*figures, *disks))
    assert second.at_s == 1.5
    assert set(second.figures[1:]) == {None}
    assert [disk.number for disk in second.disks] == ["8:16"]
    assert second.by_name()["disks"] == {"8:16": {"read": 1, "written": 2, "in_flight": 3, "busy": 4}}


@given(processes=PROCESSES, size=st.integers(1, 20))
def test_recording_round_finds_the_largest_in_any_parts(processes: list[TopProcess], size: int) -> None:
    """Whatever is visited together, and by whichever worker."""
    memory = memoryview(bytearray(STATE_BYTES))
    parts = [processes[at : at + size] for at in range(0, len(processes), size)] or [[]]
    for number, part in enumerate(parts, 1):
        following = 0 if number == len(parts) else number
        RoundState(memory).add(part, visited=len(part), following=following, now_ns=number * 10**9)
    found = read_round(RoundState(memory).row())
    assert (found.began_s, found.ended_s, found.processes) == (1.0, len(parts), len(processes))
    sizes = sorted((one.rss_bytes for one in processes if one.rss_bytes), reverse=True)
    assert [one.rss_bytes for one in found.by_memory] == sizes[:LARGEST]
    shares = sorted((one.cpu for one in processes if one.cpu), reverse=True)
    assert [one.cpu for one in found.by_cpu] == shares[:LARGEST]
    assert set(found.by_memory) | set(found.by_cpu) <= set(processes)


def test_recording_round_begins_anew_after_the_last_part() -> None:
    """The largest of one round are not those of the next."""
    state = RoundState(memoryview(bytearray(STATE_BYTES)))
    large = TopProcess(4_000_077, b"large", 1, 1 << 30, None)
    small = TopProcess(4_000_078, b"small", 1, 1 << 20, None)
    state.add([large], visited=1, following=0, now_ns=1)
    state.add([small], visited=1, following=0, now_ns=2)
    assert read_round(state.row()).by_memory == (small,)


def test_recording_cpu_share_is_that_since_the_last_visit() -> None:
    """Not of another process that had the PID, nor of one at the same place of the table."""
    visits = Visits(memoryview(bytearray(VISITS_BYTES)))
    pid, old = 4_000_077, 50_000
    assert visits.cpu(pid, 10, 300, now_ticks=old) is None
    assert visits.cpu(pid, 10, 800, now_ticks=old + 1000) == 500
    assert visits.cpu(pid, old + 1500, 100, now_ticks=old + 2000) == 200
    assert visits.cpu(pid + VISITS, 10, 5, now_ticks=old + 2000) is None
    assert visits.cpu(pid, old + 1500, 200, now_ticks=old + 20_000) is None


def test_recording_cpu_share_is_unknown_of_a_process_that_is_being_reaped() -> None:
    """The kernel says 0 then; a count that went beyond 32 bits is none such: 128 busy CPUs need four days for it."""
    visits = Visits(memoryview(bytearray(VISITS_BYTES)))
    assert visits.cpu(4_000_077, 10, 300, now_ticks=20) == 30_000
    assert visits.cpu(4_000_077, 10, 0, now_ticks=1020) is None
    assert visits.cpu(4_000_078, 10, (1 << 32) - 100, now_ticks=50_000) is None
    assert visits.cpu(4_000_078, 10, (1 << 32) + 400, now_ticks=51_000) == 500


def test_recording_rounds_are_bounded_however_far_it_goes_back() -> None:
    """A day at a row a minute takes no more than an hour at a row a second, and its rounds are spread over the day."""
    day = RecorderSettings(period_s=Seconds(60.0), keep_s=Seconds(86_400.0))
    hour = RecorderSettings(keep_s=Seconds(3600.0))
    assert memory_bytes(day) < memory_bytes(hour)
    assert (hour.round_s, day.round_s) == (ROUND_S, 86_400 / MAX_ROUNDS)
    for settings in (day, hour):
        recording = Recording(memoryview(bytearray(memory_bytes(settings))), settings)
        assert recording.rounds.capacity * settings.round_s >= settings.keep_s
