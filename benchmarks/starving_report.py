"""The parts *starving*, *loops* and *second* as Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

Found = dict[str, Any]
COUNTERS = ("allocstall", "pgscan_direct")
REFERENCE = "1000:nothing"
WITHIN = 1.3


def starving(found: Found) -> list[str]:
    """Return the tables of the part *starving*, and how each cell meets the requirements."""
    cells: list[Found] = sorted(found["cells"].values(), key=lambda cell: (cell["beside"] != "nothing", cell["beside"]))
    reference = middle(_crashes(found["cells"].get(REFERENCE, {})), "sealed_s")
    head = [
        "## A crash on a starving machine",
        "",
        f"The shipped configuration and a segment of {found['segment_mib']} MiB, archive and cores on a disk held to"
        " 100 MiB/s; only paths differ, and budgets of 10,000 crashes in place of 5 an executable. Windows last"
        f" {found['window_s']:g} s, or until the incident is sealed; what runs beside ends, and the window with it,"
        f" {found['patience_s']:g} s after the crash if it is not. Seconds from the marker's moment (core written and"
        " crash noticed), median (worst). Rates a second: median with a crash; least to most without. *Own stall*:"
        " PSI `some` of the daemon's cgroup, median (worst) with a crash.",
        "",
        *_table(
            [
                "MiB",
                "beside",
                "complete",
                "segment",
                "light archived",
                "noticed",
                "light read",
                "sealed",
                "sealed while it ran",
                "x 1,000 MiB",
            ]
            + [f"{name}/s, crash; without" for name in COUNTERS]
            + ["own stall, ms", "least left, MiB"],
            (_cell(cell, reference) for cell in cells),
        ),
        "",
        "The same under probes, in runs of their own; p99 in ms, without a crash / with one.",
        "",
        *_probes([cell for cell in cells if "probed" in cell]),
        "",
        *_verdicts(cells, reference),
        "",
    ]
    return head + _notes(cells)


def loops(found: Found) -> list[str]:
    """Return the table of the part *loops*."""
    rows, ways = [], [name for name in found if name != "loops"]
    for way in ways:
        crashes, late = found[way]["crashes"], found[way]["late_ms"]
        cells = [way, f"{len(crashes)}", _median_worst(crashes, "noticed_s"), _median_worst(crashes, "light_read_s")]
        for probe in late.values():
            cells += [f"{probe['quiet'][share]:,.2f} / {probe['crash'][share]:,.2f}" for share in ("p50", "p99", "max")]
        rows.append(cells)
    probes = [f"{probe} {share}" for probe in found[ways[0]]["late_ms"] for share in ("p50", "p99", "max")]
    return [
        f"## A crash beside {found['loops']} busy loops",
        "",
        "Seconds until the light evidence was read, median (worst); lateness of a process that sleeps 5 ms, in ms,"
        " in the second before / after the order to crash.",
        "",
        *_table(["loops in", "crashes", "noticed", "light read", *probes], rows),
        "",
    ]


def second(found: list[Found]) -> list[str]:
    """Return the table of the part *second*."""
    rows = [
        [f"{one['b_after_s']:g}"]
        + [f"{one[who].get(name)}" for who, name in (("b", "noticed_s"), ("b", "light_read_s"), ("b", "sealed_s"))]
        + [f"{one['b']['state']}, segment {one['b']['segment']}", f"{one['a'].get('sealed_s')}"]
        + [f"{one['a']['state']}, segment {one['a']['segment']}"]
        for one in found
    ]
    names = ["B crashed after", "B noticed", "B's light evidence read", "B sealed", "B", "A sealed", "A"]
    return ["## A crash during the copy of 3 GiB of another", "", "Seconds.", "", *_table(names, rows), ""]


PARTS: dict[str, Callable[[Any], list[str]]] = {"starving": starving, "loops": loops, "second": second}


def middle(found: Iterable[Found], name: str) -> float | None:
    """Return the median of *name* over the results that have it."""
    numbers = [one[name] for one in found if one.get(name) is not None]
    return statistics.median(numbers) if numbers else None


def _crashes(cell: Found) -> list[Found]:
    return [pair["crash"] for pair in cell.get("pairs", ()) if "crash" in pair and not _void(pair["crash"])]


def _quiet(cell: Found) -> list[Found]:
    return [pair["quiet"] for pair in cell["pairs"] if "quiet" in pair and not _void(pair["quiet"])]


def _void(window: Found) -> bool:
    """Return whether memory was no longer short because the ballast had been freed."""
    return bool(window["ballast_given_back"])


def _cell(cell: Found, reference: float | None) -> list[str]:
    crashes, quiet = _crashes(cell), _quiet(cell)
    sealed = middle(crashes, "sealed_s")
    row = [
        f"{cell['available_mib']:,}",
        cell["beside"],
        _share(crash["state"] == "complete" for crash in crashes),
        _share(crash["segment"] == "complete" for crash in crashes),
        _share(_light(crash) for crash in crashes),
        *(_median_worst(crashes, name) for name in ("noticed_s", "light_read_s", "sealed_s")),
        _share(crash["sealed_meanwhile"] for crash in crashes),
        f"{sealed / reference:.2f}" if sealed and reference else "-",
    ]
    for name in COUNTERS:
        without = [window[f"{name}_per_s"] for window in quiet]
        spread = f"{min(without):,g} to {max(without):,g}" if without else "-"
        row.append(f"{_number(middle(crashes, f'{name}_per_s'))}; {spread}")
    least = min((window["least_left_mib"] for window in crashes + quiet), default=None)
    return [*row, _median_worst(crashes, "own_stalled_ms"), _number(least)]


def _light(crash: Found) -> bool:
    return crash.get("light_missing") == {}


def _probes(cells: list[Found]) -> list[str]:
    rows = []
    for cell in cells:
        pair = cell["probed"]
        names = pair["quiet"]["probes"]
        both = [pair[what]["probes"] for what in ("quiet", "crash")]
        times = [" / ".join(f"{probes[name]['p99']:,.1f}" for probes in both) for name in names]
        rows.append([f"{cell['available_mib']:,}", cell["beside"], *times])
    return _table(["MiB", "beside", *cells[0]["probed"]["quiet"]["probes"]], rows) if cells else []


def _verdicts(cells: list[Found], reference: float | None) -> list[str]:
    """Return one line per cell: the requirements that it does not meet."""
    lines = []
    for cell in cells:
        crashes, quiet = _crashes(cell), _quiet(cell)
        against = []
        if not all(_light(crash) for crash in crashes):
            against.append("light evidence is missing")
        if any((crash.get("light_read_s") or 0) > 1 for crash in crashes):
            against.append("light evidence took more than 1 s")
        if cell["beside"] == "nothing":
            if not all(crash["state"] == crash["segment"] == "complete" for crash in crashes):
                against.append("not all complete with the segment")
            sealed = middle(crashes, "sealed_s")
            if reference and sealed and sealed > WITHIN * reference:
                against.append(f"took more than {WITHIN} x the time at 1,000 MiB")
            if any(crash["allocstall"] for crash in crashes):
                against.append("allocstall rose")
        elif (middle(crashes, "allocstall_per_s") or 0) > max((one["allocstall_per_s"] for one in quiet), default=0):
            against.append("allocstall above all runs without a crash")
        said = "; ".join(against) or ("as asked for" if crashes else "not measured")
        lines.append(f"- {cell['available_mib']:,} MiB beside {cell['beside']}: {said} ({len(crashes)} crashes)")
    return lines


def _notes(cells: list[Found]) -> list[str]:
    """Return why something is missing, how often for each reason, and which windows do not count."""
    lines = []
    for cell in cells:
        where = f"- {cell['available_mib']:,} MiB beside {cell['beside']}"
        counted = Counter(
            f"{step} {crash['steps'][step]}: {reason}"
            for crash in _crashes(cell)
            for step, reason in crash.get("reasons", {}).items()
        )
        lines += [f"{where}, {count} x {reason}" for reason, count in counted.items()]
        given_back = sum(_void(window) for pair in cell["pairs"] for window in pair.values())
        if given_back:
            lines.append(f"{where}: {given_back} windows do not count, memory ran out and the ballast was given back")
        if "stopped" in cell:
            lines.append(f"{where}: stopped, {cell['stopped']}")
        if any(not crash.get("light_read_known", True) for crash in _crashes(cell)):
            lines.append(f"{where}: light read by the ends of steps; the manifest does not tell when each was read")
    return ["What was not collected, and what else there is to know:", "", *lines, ""] if lines else []


def _table(names: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _share(flags: Iterable[bool]) -> str:
    listed = list(flags)
    return f"{sum(listed)}/{len(listed)}"


def _median_worst(found: list[Found], name: str) -> str:
    numbers = [one[name] for one in found if one.get(name) is not None]
    return f"{statistics.median(numbers):,.3g} ({max(numbers):,.3g})" if numbers else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,g}"
