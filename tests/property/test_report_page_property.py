"""Whatever an incident holds, its page is valid, and its charts are whole."""

from __future__ import annotations

import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import checked_page
from stories import AT, PID, archived_story, manifest, recorder_file, story

from collector.archive.read import ArchiveReader
from collector.report.charts import UNITS, Chart, ChartLine, ChartTimes, draw
from collector.report.page import page
from collector.report.page_text import bounded, shown, weight
from collector.report.recorded_charts import charts
from collector.report.recording import ArchivedRecording, ArchivedSecond
from collector.report.story import Cause, LogLine, Missing, Subject

TEXT = st.text(max_size=60) | st.text(alphabet="<>&\"'/=!-{}%\u202e\u2066\u0301\u0000\n", max_size=60)
FIGURE = st.none() | st.floats(0, float(1 << 64)) | st.just(0.0)
TIME = st.floats(0, 4e9)


@given(text=TEXT)
def test_shown_text_is_neither_markup_nor_moves_others(text: str) -> None:
    """It parses back to text alone, all of which is printable."""
    escaped = str(shown(text))
    assert not set(escaped) & set("<>\"'")
    assert escaped.isprintable()
    assert "".join(ET.fromstring(f"<p>{escaped}</p>".encode()).itertext()).isprintable()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXT, row=TEXT)
def test_page_of_any_text_is_valid(text: str, row: str) -> None:
    """In the fields of which it shows most."""
    told = story(
        host=text,
        subject=Subject(comm=text, pid=PID, exe=row, unit=text),
        cause=Cause(said=text, diagnosis=row),
        said=(LogLine(at=AT, text=row, who=text, matters=True),),
        missing=(Missing(step=text, status=row, reason=text),),
    )
    encoded = msgspec.json.encode({"name": row, "why": text, "size_bytes": 1})
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        archived_story(Path(directory) / "archive", files={"segments/segments.jsonl": encoded + b"\n" + row.encode()})
        with ArchiveReader(f"{directory}/archive") as archive:
            checked_page("".join(page(archive, told)))


@settings(deadline=None)
@given(
    points=st.lists(st.tuples(TIME, FIGURE), max_size=50),
    times=st.tuples(TIME, TIME, TIME, TIME, TIME),
    unit=st.sampled_from(sorted(UNITS)),
    name=TEXT,
)
def test_chart_of_any_series_is_drawn_within_its_frame(
    points: list[tuple[float, float | None]], times: tuple[float, ...], unit: str, name: str
) -> None:
    """Empty, one point, gaps, any order: every figure is finite, and nothing lies outside the frame."""
    first_s, last_s = sorted(times[:2])
    drawing = draw(Chart(name, unit, (ChartLine(name, tuple(points)),)), ChartTimes(first_s, last_s, *times[2:]), "c1")
    tree = ET.fromstring(drawing.encode())
    _, _, width, height = map(float, tree.get("viewBox", "").split())
    for element in tree.iter():
        for key in ("x", "y", "cx", "cy"):
            assert 0 <= float(element.get(key, "0")) <= max(width, height)
    assert not {"nan", "inf"} & set(str(drawing).lower().replace('"', " ").split())


@settings(deadline=None)
@given(rows=st.lists(st.tuples(TIME, FIGURE, FIGURE), max_size=30), period_s=st.floats(0.1, 3600))
def test_charts_of_any_recording_are_finite(
    rows: list[tuple[float, float | None, float | None]], period_s: float
) -> None:
    """Counters that go back, rows of the same moment, missing figures."""
    seconds = tuple(
        ArchivedSecond(
            at_s, {"mem_available": first, "psi_io_some": second}, {"8:0": {"read": first, "written": second}}
        )
        for at_s, first, second in sorted(rows, key=lambda row: row[0])
    )
    for chart in charts(ArchivedRecording(period_s=period_s, seconds=seconds)):
        for line in chart.lines:
            assert all(0 <= figure < float("inf") for figure in line.figures())


@given(rows=st.lists(TEXT, max_size=40), most_bytes=st.integers(0, 4000))
def test_bounded_rows_fit_and_none_is_lost(rows: list[str], most_bytes: int) -> None:
    """What is left out is counted."""
    found = bounded(rows, most_bytes=most_bytes)
    assert list(found.rows) == rows[: len(found.rows)]
    assert len(found.rows) + found.left_out == len(rows)
    assert sum(map(weight, found.rows)) <= most_bytes


@settings(max_examples=25, deadline=None)
@given(damage=st.binary(max_size=200), at=st.integers(0, 400))
def test_page_of_a_damaged_recording_is_valid(damage: bytes, at: int) -> None:
    """Bytes replaced anywhere in the recorder's file."""
    data = bytearray(recorder_file(20))
    data[at * 4 : at * 4 + len(damage)] = damage
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        archived_story(Path(directory) / "archive", known=manifest(), files={"recorder/recorder.jsonl": bytes(data)})
        with ArchiveReader(f"{directory}/archive") as archive:
            checked_page("".join(page(archive, story())))
