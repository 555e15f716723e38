"""What a page takes from the recorder's files, and from the tables beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stories import AT, GIB, INCIDENT, PID, archived_story, manifest, recorder_file

from collector.model.artifact import ArtifactRecord
from collector.model.incident import StepRecord, StepStatus
from collector.report.agreement import agreement
from collector.report.holders import MemoryHolder, memory_holders, shm_segments
from collector.report.page_lines import NEAR, page_lines
from collector.report.recorded_charts import charts, gaps
from collector.report.recording import read_recording
from collector.report.story import LogLine


@contextmanager
def incident(path: Path, files: dict[str, bytes]) -> Iterator[int]:
    """Open the directory of an incident with these files."""
    fd = os.open(archived_story(path, files=files) / INCIDENT, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def with_file(path: str, collector: str) -> StepRecord:
    record = ArtifactRecord(path=path, size_bytes=1, data_bytes=1)
    return StepRecord(id=path.partition("/")[0], collector=collector, status=StepStatus.OK, artifacts=(record,))


def test_recording_joins_what_came_before_and_what_came_during(tmp_path: Path) -> None:
    """Rows that the files share are one; times are those of the wall clock."""
    files = {"recorder/recorder.jsonl": recorder_file(10), "recorder/during.jsonl": recorder_file(4)}
    known = manifest(
        steps=(with_file("recorder/recorder.jsonl", "recorder"), with_file("recorder/during.jsonl", "recorder"))
    )
    with incident(tmp_path / "archive", files) as fd:
        found = read_recording(fd, known)
    assert [round(AT.timestamp() - second.at_s) for second in found.seconds] == list(range(10, 0, -1))
    assert found.disks == {"7:0": "loop0"}


@pytest.mark.parametrize("figure", ["1e308", "-1", "true", '"7"', "[7]", "null", "99999999999999999999"])
def test_recording_takes_no_figure_that_cannot_be_one(tmp_path: Path, figure: str) -> None:
    """It is as if the kernel did not have it; a row whose time is none is no row."""
    head, *_ = recorder_file(0).splitlines()
    lines = (head, f'[4990,{figure},{figure},[["7:0",{figure}]]]'.encode(), f"[{figure},1,1,[]]".encode())
    with incident(tmp_path / "archive", {"recorder/recorder.jsonl": b"\n".join(lines) + b"\n"}) as fd:
        (second,) = read_recording(fd, manifest()).seconds
    assert second.figures == {"boottime": 4990.0, "mem_available": None, "psi_io_some": None, "disks": None}
    assert second.disks == {"7:0": {"read": None}}


@pytest.mark.parametrize("boot_s", ["-1e10", "9e15"])
def test_recording_has_no_row_beyond_the_calendar(tmp_path: Path, boot_s: str) -> None:
    """What no date can be given cannot be drawn."""
    head, row = recorder_file(1).splitlines()
    lines = (head, row, f"[{boot_s},1,1,[]]".encode())
    with incident(tmp_path / "archive", {"recorder/recorder.jsonl": b"\n".join(lines) + b"\n"}) as fd:
        assert len(read_recording(fd, manifest()).seconds) == 1


def test_recorded_counters_become_rates_and_gaps_stay_gaps(tmp_path: Path) -> None:
    """Microseconds of stall a second are percent; across 31 seconds without rows no rate is known."""
    with incident(tmp_path / "archive", {"recorder/recorder.jsonl": recorder_file(10, gap=30)}) as fd:
        found = read_recording(fd, manifest())
    (gap,) = gaps(found)
    assert gap[1] - gap[0] == 31
    drawn = {chart.name: chart for chart in charts(found)}
    (stalls,) = (line for line in drawn["Time in which some tasks stalled"].lines if line.figures())
    assert set(stalls.figures()) == {0.1}
    assert [figure for _, figure in stalls.points].count(None) == 1
    _, written = drawn["Disk loop0"].lines
    assert set(written.figures()) == {4096 * 512.0}
    assert set(drawn["Time in which disks were busy"].lines[0].figures()) == {50.0}
    available = drawn["Memory"].lines[0]
    assert (available.figures()[0], [figure for _, figure in available.points].count(None)) == (GIB, 1)


def test_memory_holders_are_those_of_the_process_table_else_of_the_last_round(tmp_path: Path) -> None:
    """The largest first."""
    table = b"pid\tcomm\trss_kib\tshmem_kib\n" + b"".join(b"%d\tname\t%d\t7\n" % (n, n) for n in range(1, 40))
    rounds = recorder_file(0) + b"".join(
        b'{"began_s":1,"ended_s":%d,"processes":1,"by_memory":[[4000077,"engine",1,%d,0]],"by_cpu":[]}\n' % (n, n)
        for n in (2, 3)
    )
    files = {"processes/processes.tsv": table, "recorder/top.jsonl": rounds}
    top = with_file("recorder/top.jsonl", "recorder")
    with incident(tmp_path / "archive", files) as fd:
        holders = memory_holders(fd, manifest())
        assert holders[0] == MemoryHolder(39, "name", 39 * 1024, 7 * 1024)
        assert len(holders) == 12
        assert memory_holders(fd, manifest(steps=(top,))) == [MemoryHolder(PID, "engine", 3)]


def test_segments_of_the_crash_come_first_then_those_with_most_data(tmp_path: Path) -> None:
    """With their owners, from the list of all that was in /dev/shm."""
    rows = b"".join(
        b'{"name":"%s","kind":"%s","size_bytes":%d,"data_bytes":%d,"uid":7,"gid":7,"mode":"0600","mtime_s":1,"links":1}\n'
        % row
        for row in ((b"big", b"file", 99, 9999), (b"engine.main", b"file", 5, 4096), (b"dir", b"directory", 0, 0))
    )
    steps = (*manifest().steps, with_file("segments/inventory.jsonl", "shm"))
    lost = tuple(step for step in steps if step.artifacts[0].path != "segments/segments/0001")
    with incident(tmp_path / "archive", {"segments/inventory.jsonl": rows}) as fd:
        own, other = shm_segments(fd, manifest(steps=steps))
        planned, _ = shm_segments(fd, manifest(steps=lost))
    assert (own.name, own.uid, own.artifact, own.held) == (
        "engine.main",
        7,
        "segments/segments/0001",
        "mapped by the crashed process",
    )
    assert (planned.artifact, planned.not_taken) == ("", "it was not copied")
    assert (other.name, other.held) == ("big", "")


def test_agreement_names_who_reported_what() -> None:
    """And what they report differently; a marker that may be about another crash does not count."""
    facts = {fact.name: fact for fact in agreement(manifest().markers)}
    assert facts["process"].values == ((str(PID), ("exits", "cores")),)
    assert facts["signal"].values == (("SIGSEGV", ("exits",)), ("SIGABRT", ("cores",)))
    assert facts["signal"].differs
    assert not facts["process"].differs


@pytest.mark.parametrize("matters", [0, 5, 500, 999, None])
def test_lines_around_the_one_that_matters_are_never_left_out(matters: int | None) -> None:
    """A bound takes the farthest; without such a line it takes the oldest."""
    lines = [LogLine(at=None, text=f"{number:0500}", matters=number == matters) for number in range(1000)]
    found = page_lines(lines, most_bytes=30_000)
    shown = [int(line.text) for line in (*found.earlier, *found.near, *found.later)]
    focus = 999 if matters is None else matters
    assert shown == list(range(shown[0], shown[-1] + 1))
    assert focus in [int(line.text) for line in found.near]
    assert len(found.near) <= 2 * NEAR + 1
    assert 20 < len(shown) == 1000 - found.left_out < 60


def test_lines_of_an_empty_log_are_none() -> None:
    """No line is made up."""
    assert page_lines((), most_bytes=100) == ((), (), (), 0)
