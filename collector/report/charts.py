"""Charts of figures over time, as SVG that needs no script; functions of their arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup

from collector.report.page_text import shown

WIDTH, HEIGHT = 440, 176
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 20, 24
COLUMNS = WIDTH - LEFT - RIGHT
"""Of so many columns each keeps its lowest and its highest point at the most, whatever the points."""

UNITS = {
    "bytes": (1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")),
    "bytes/s": (1024.0, ("B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s", "PiB/s", "EiB/s")),
    "per second": (1000.0, ("/s", "thousand/s", "million/s", "billion/s")),
    "%": (float("inf"), ("%",)),
}
LEAST = {"bytes": 1 << 20, "bytes/s": 1 << 20, "per second": 10.0, "%": 10.0}
"""What an axis reaches at the least: noise must not look like a peak."""

MAX_LINES = 4
"""As many as can be told apart without colour."""


class ChartLine(NamedTuple):
    """One line: its name, and its points: seconds since the epoch, and a figure; ``None`` interrupts it."""

    name: str
    points: tuple[tuple[float, float | None], ...]

    def figures(self) -> list[float]:
        """Return the figures that there are."""
        return [figure for _, figure in self.points if figure is not None]

    def at(self, at_s: float) -> float | None:
        """Return the last figure until then."""
        found = [figure for then_s, figure in self.points if then_s <= at_s and figure is not None]
        return found[-1] if found else None

    def summary(self, at_s: float) -> tuple[float | None, float | None, float | None]:
        """Return the last figure until *at_s*, the lowest and the highest."""
        figures = self.figures()
        return self.at(at_s), min(figures, default=None), max(figures, default=None)


class Chart(NamedTuple):
    """What one picture shows: lines of one of the `UNITS`."""

    name: str
    unit: str
    lines: tuple[ChartLine, ...]

    @property
    def highest(self) -> float:
        return max((figure for line in self.lines for figure in line.figures()), default=0.0)


class ChartTimes(NamedTuple):
    """The time that charts show, when the crash was, and when it was collected; seconds since the epoch."""

    first_s: float
    last_s: float
    crash_s: float
    began_s: float
    ended_s: float


class Scale(NamedTuple):
    """The axis of a chart: what one *unit* is, and the figures at its ticks, in that unit."""

    unit: str
    factor: float
    ticks: tuple[float, ...]


def amount(figure: float | None, unit: str) -> str:
    """Return a figure with its unit; a dash if there is none."""
    if figure is None:
        return "–"  # noqa: RUF001 - an en dash stands for nothing in tables
    name, factor = _unit(figure, unit)
    return f"{_short(figure / factor)} {name}".strip()


def scale_of(highest: float, unit: str) -> Scale:
    """Return an axis from 0 to *highest* or more, at least to `LEAST`, with up to six ticks at round figures."""
    name, factor = _unit(max(highest, LEAST[unit]), unit)
    most = max(highest, LEAST[unit]) / factor
    step = 1.0
    while most / step > 5:
        step *= 10
    step *= next(part for part in (0.2, 0.5, 1.0) if most / (step * part) <= 5)
    count = -int(-most / step // 1)
    return Scale(name, factor, tuple(step * number for number in range(count + 1)))


def draw(chart: Chart, times: ChartTimes, identity: str) -> Markup:
    """
    Return *chart* as an ``svg`` element.

    Args:
        chart: At least one line; of more than `MAX_LINES`, the first.
        times: What is shown, and what is marked.
        identity: Unique in the page; for the title and the description.
    """
    scale = scale_of(chart.highest, chart.unit)
    parts = [
        Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d">'
            '<title id="{}-t">{}</title><desc id="{}-d">{}</desc>'
        ).format(
            WIDTH, HEIGHT, identity, identity, identity, shown(chart.name), identity, shown(_described(chart, times))
        ),
        *_marks(times),
        *_vertical_axis(scale),
        *_time_axis(times),
    ]
    for number, line in enumerate(chart.lines[:MAX_LINES], start=1):
        parts += _line(line, times, scale, number)
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def sample(number: int) -> Markup:
    """Return the line with that number, from 1, for the legend."""
    return Markup(
        '<svg class="sample" viewBox="0 0 24 8" aria-hidden="true"><path class="line l{}" d="M0 4H24"/></svg>'
    ).format(number)


def bar(first: float, last: float, kind: str) -> Markup:
    """Return a bar from *first* to *last*, which are parts of the whole width, 0 to 1; at least a stroke wide."""
    start = min(max(first, 0.0), 0.99) * 200
    width = max(min(last, 1.0) * 200 - start, 2.0)
    return Markup(
        '<svg class="bar" viewBox="0 0 200 10" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="rail" d="M0 5H200"/><rect class="{}" x="{:.1f}" y="1" width="{:.1f}" height="8"/></svg>'
    ).format(kind, start, width)


def _described(chart: Chart, times: ChartTimes) -> str:
    told = []
    for line in chart.lines[:MAX_LINES]:
        then, lowest, highest = (amount(figure, chart.unit) for figure in line.summary(times.crash_s))
        told.append(f"{line.name}: {then} at the crash, {lowest} to {highest}")
    return "; ".join(told)


def _marks(times: ChartTimes) -> Iterator[Markup]:
    """Yield the shade of the time of collection, and the line of the crash."""
    start, end = _x(times.began_s, times), _x(times.ended_s, times)
    yield Markup('<rect class="collecting" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
        start, TOP, max(end - start, 2.0), HEIGHT - TOP - BOTTOM
    )
    at = _x(times.crash_s, times)
    end_anchor = at > (LEFT + WIDTH) / 2
    yield Markup(
        '<path class="crash" d="M{:.1f} {}V{}"/>'
        '<text class="crash-name" x="{:.1f}" y="{}" text-anchor="{}">crash</text>'
    ).format(at, TOP - 4, HEIGHT - BOTTOM, at - 4 if end_anchor else at + 4, TOP - 8, "end" if end_anchor else "start")


def _vertical_axis(scale: Scale) -> Iterator[Markup]:
    yield Markup('<text class="unit" x="2" y="11">{}</text>').format(scale.unit)
    for tick in scale.ticks:
        at = _y(tick * scale.factor, scale)
        yield Markup(
            '<path class="grid" d="M{} {:.1f}H{}"/><text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(LEFT, at, WIDTH - RIGHT, LEFT - 5, at + 4, f"{tick:.6g}")


def _time_axis(times: ChartTimes) -> Iterator[Markup]:
    for tick_s, text in time_ticks(times.first_s, times.last_s):
        at = _x(tick_s, times)
        yield Markup(
            '<path class="axis" d="M{:.1f} {}v4"/><text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
        ).format(at, HEIGHT - BOTTOM, min(max(at, LEFT + 12), WIDTH - RIGHT - 22), HEIGHT - 6, text)


def time_ticks(first_s: float, last_s: float) -> list[tuple[float, str]]:
    """Return up to six round local times between the two, with their texts."""
    length_s = last_s - first_s
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)
    step = next((step for step in steps if length_s / step <= 5), 86_400 * (1 + length_s // (5 * 86_400)))
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86_400 else "%m-%d"
    offset = datetime.fromtimestamp(first_s).astimezone().utcoffset()
    local_s = offset.total_seconds() if offset else 0.0
    at_s = ((first_s + local_s) // step + 1) * step - local_s
    found: list[tuple[float, str]] = []
    while at_s <= last_s and len(found) < 6:
        found.append((at_s, f"{datetime.fromtimestamp(at_s):{form}}"))
        at_s += step
    return found


def _line(line: ChartLine, times: ChartTimes, scale: Scale, number: int) -> Iterator[Markup]:
    """Yield the line as one path, and the points that stand alone as another."""
    pieces: list[str] = []
    dots: list[str] = []
    for _, run in groupby(_thinned(line.points, times), key=lambda point: point.run):
        places = [f"{_x(point.at_s, times):.1f} {_y(point.figure, scale):.1f}" for point in run]
        if len(places) == 1:
            dots.append(f"M{places[0]}h0")
        else:
            pieces.append("M" + "L".join(places))
    for kind, path in (("line", pieces), ("dot", dots)):
        if path:
            yield Markup('<path class="{} l{}" d="{}"/>').format(kind, number, "".join(path))


class _Point(NamedTuple):
    """A point of a line, and the number of the interruptions before it."""

    at_s: float
    figure: float
    run: int


def _thinned(points: Sequence[tuple[float, float | None]], times: ChartTimes) -> list[_Point]:
    """Return the points in order; of more than fit, the lowest and the highest of each column."""
    found: list[_Point] = []
    run = 0
    for at_s, figure in points:
        if figure is None:
            run += 1
        else:
            found.append(_Point(at_s, figure, run))
    if len(found) <= 2 * COLUMNS:
        return found
    columns: dict[int, list[_Point]] = {}
    for point in found:
        columns.setdefault(int(_x(point.at_s, times)), []).append(point)
    ends = ({min(column, key=_figure), max(column, key=_figure)} for column in columns.values())
    return sorted(point for column in ends for point in column)


def _figure(point: _Point) -> float:
    return point.figure


def _x(at_s: float, times: ChartTimes) -> float:
    length_s = max(times.last_s - times.first_s, 1e-3)
    return LEFT + min(max((at_s - times.first_s) / length_s, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)


def _y(figure: float, scale: Scale) -> float:
    whole = scale.ticks[-1] * scale.factor or 1.0
    return HEIGHT - BOTTOM - min(max(figure / whole, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)


def _unit(figure: float, unit: str) -> tuple[str, float]:
    """Return the largest unit that *figure* fills, and how many it is."""
    base, names = UNITS[unit]
    factor, number = 1.0, 0
    while figure / factor >= base and number < len(names) - 1:
        factor, number = factor * base, number + 1
    return names[number], factor


def _short(figure: float) -> str:
    """Return three significant digits, without an exponent."""
    if figure >= 99.95 or figure == int(figure):
        return f"{figure:.0f}"
    return f"{figure:.1f}" if figure >= 9.995 else f"{figure:.2f}" if figure >= 0.01 else f"{figure:.1g}"
