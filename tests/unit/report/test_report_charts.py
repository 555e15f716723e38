"""Charts: what they draw, what they say in words, and how they mark the crash."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from collector.report.charts import (
    COLUMNS,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Chart,
    ChartLine,
    ChartTimes,
    amount,
    bar,
    draw,
    scale_of,
    time_ticks,
)

GIB = 1 << 30
TIMES = ChartTimes(first_s=1000.0, last_s=1100.0, crash_s=1080.0, began_s=1080.0, ended_s=1090.0)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def drawn(*lines: ChartLine, times: ChartTimes = TIMES, unit: str = "bytes") -> ET.Element:
    return ET.fromstring(draw(Chart("Memory", unit, lines), times, "chart1"))


def of_class(tree: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in tree.iter() if name in element.get("class", "").split()]


def test_chart_says_in_words_what_it_shows() -> None:
    """For those who do not see it: the title, and each line's figures."""
    tree = drawn(ChartLine("available", ((1000.0, 3.0 * GIB), (1080.0, 2.0 * GIB), (1100.0, 1.0 * GIB))))
    named = [tree.find(f".//*[@id='{name}']") for name in tree.get("aria-labelledby", "").split()]
    assert [element.text for element in named if element is not None] == [
        "Memory",
        "available: 2 GiB at the crash, 1 GiB to 3 GiB",
    ]


def test_chart_marks_the_crash_and_its_collection() -> None:
    """A line at the crash, and the shaded time from the beginning to the end of the incident."""
    tree = drawn(ChartLine("x", ((1000.0, 1.0),)))
    (crash,), (shade,) = of_class(tree, "crash"), of_class(tree, "collecting")
    width = WIDTH - LEFT - RIGHT
    assert crash.get("d", "").startswith(f"M{LEFT + 0.8 * width:.1f} ")
    assert (shade.get("x"), shade.get("width")) == (f"{LEFT + 0.8 * width:.1f}", f"{0.1 * width:.1f}")


def test_chart_shows_a_gap_as_a_gap() -> None:
    """The line is interrupted; a point that stands alone is a dot."""
    points = ((1000.0, 1.0), (1001.0, 2.0), (1002.0, None), (1040.0, 2.0), (1041.0, None), (1050.0, 1.0), (1051.0, 1.0))
    tree = drawn(ChartLine("x", points))
    (line,) = (element for element in of_class(tree, "line"))
    assert line.get("d", "").count("M") == 2
    (dot,) = of_class(tree, "dot")
    assert dot.get("d", "").count("M") == 1


def test_chart_keeps_each_peak_of_more_points_than_it_has_room_for() -> None:
    """A stall of a second in an hour is what the chart is for."""
    points = tuple((1000.0 + number / 40, 9e9 if number == 1777 else 1.0) for number in range(4000))
    tree = drawn(ChartLine("x", points))
    (line,) = of_class(tree, "line")
    assert len(line.get("d", "")) < 2 * COLUMNS * 14
    places = re.findall(r"[ML]([\d.]+) ([\d.]+)", line.get("d", ""))
    assert len(places) <= 2 * COLUMNS
    assert min(float(y) for _, y in places) < HEIGHT / 3
    assert [float(x) for x, _ in places] == sorted(float(x) for x, _ in places)


@pytest.mark.parametrize(
    ("highest", "unit", "named", "last"),
    [
        (21.3 * GIB, "bytes", "GiB", 25),
        (0.0, "bytes", "MiB", 1),
        (99.0, "%", "%", 100),
        (0.1, "%", "%", 10),
        (2.04 * GIB, "bytes/s", "GiB/s", 2.5),
        (12_345.0, "per second", "thousand/s", 15),
    ],
)
def test_scale_has_round_figures_and_a_least_height(highest: float, unit: str, named: str, last: float) -> None:
    """Noise of a tenth of a percent does not fill the chart."""
    scale = scale_of(highest, unit)
    assert (scale.unit, scale.ticks[0], scale.ticks[-1]) == (named, 0, last)
    assert 3 <= len(scale.ticks) <= 6


def test_time_ticks_are_round_local_times() -> None:
    """At most six, with seconds where they matter."""
    assert [text for _, text in time_ticks(1000.0, 1055.0)] == ["00:16:45", "00:17:00", "00:17:15", "00:17:30"]
    assert [text for _, text in time_ticks(0.0, 900.0)] == ["00:05", "00:10", "00:15"]
    assert [text for _, text in time_ticks(0.0, 30 * 86_400.0)] == ["01-08", "01-15", "01-22", "01-29"]


@pytest.mark.parametrize(
    ("figure", "unit", "text"),
    [(None, "%", "\u2013"), (1.31 * GIB, "bytes", "1.31 GiB"), (0.0, "per second", "0 /s"), (98.63, "%", "98.6 %")],
)
def test_amount_has_its_unit(figure: float | None, unit: str, text: str) -> None:
    """And three digits."""
    assert amount(figure, unit) == text


def test_bar_of_no_length_is_seen() -> None:
    """Also at the very end."""
    for first, last in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (-3.0, 7.0)):
        (rect,) = (element for element in ET.fromstring(bar(first, last, "step")).iter("rect"))
        assert float(rect.get("width", "")) >= 2
        assert 0 <= float(rect.get("x", "")) <= 198
