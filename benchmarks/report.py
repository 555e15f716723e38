"""Results as JSON, Markdown and plots."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import starving_report
from benchmarks.svg import bars

COLUMNS = {
    "mib_per_s": "MiB/s",
    "cpu_s_per_gib": "CPU s/GiB",
    "cache_growth_kib": "page cache, peak KiB",
    "cache_left_kib": "left KiB",
    "shmem_growth_kib": "Shmem KiB",
    "dirtied_pages": "dirtied pages",
    "peak_rss_kib": "peak RSS KiB",
    "page_tables_kib": "VmPTE KiB",
    "blocks_kib": "on disk KiB",
}


def write(directory: Path, results: dict[str, Any]) -> None:
    """Write ``results.json``, ``results.md`` and the plots."""
    directory.mkdir(exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = ["# Benchmark results", "", *(f"- {name}: {value}" for name, value in results["machine"].items()), ""]
    for number, table in enumerate(table for part in ("dense", "memory", "holes") for table in results.get(part, [])):
        text += _throughput(table)
        plot = f"throughput-{number}.svg"
        bars(directory / plot, table["title"], {row["copier"]: row["mib_per_s"] for row in table["rows"]}, "MiB/s")
        text += [f"![{table['title']}]({plot})", ""]
    if "stall" in results:
        text += _stall(directory, results["stall"])
    for part, tell in starving_report.PARTS.items():
        if part in results:
            text += tell(results[part])
    if "core-dump" in results:
        text += _core_dump(results["core-dump"])
    if "slab" in results:
        text += _slab(results["slab"])
    if "verbs" in results:
        text += _verbs(results["verbs"])
    (directory / "results.md").write_text("\n".join(text))


def _throughput(table: dict[str, Any]) -> list[str]:
    head = [f"## {table['title']}", "", f"Medians of {table['rows'][0]['runs']} paired runs.", ""]
    lines = ["| copier | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for row in table["rows"]:
        lines.append(f"| {row['copier']} | " + " | ".join(f"{row[name]:,}" for name in COLUMNS) + " |")
    return [*head, *lines, ""]


def _stall(directory: Path, stall: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys(found["copier"] for found in stall["rounds"]))
    probes = list(stall["rounds"][0]["probes"])
    counters = ["seconds", "allocstall", "pgscan_direct", "free_least_mib", "cache_growth_mib"]
    head = [
        "## Harm to others",
        "",
        f"{stall['size'] >> 20} MiB to a loop disk in memory that is held to {stall['rate'] >> 20} MiB/s, about"
        f" {stall['available'] >> 20} MiB available; probes every 20 ms, a segment every 5 s, lateness included, in ms."
        f" Medians over {sum(found['copier'] == 'idle' for found in stall['rounds'])} paired rounds.",
        "",
        "| copier | " + " | ".join(f"{probe} p50 / p99" for probe in probes) + " | " + " | ".join(counters) + " |",
        "|---|" + "---:|" * (len(probes) + len(counters)),
    ]
    worst: dict[str, float] = {}
    for name in names:
        of_name = [found for found in stall["rounds"] if found["copier"] == name]
        cells = [
            " / ".join(
                f"{statistics.median(found['probes'][probe][share] for found in of_name):,.1f}"
                for share in ("p50", "p99")
            )
            for probe in probes
        ]
        cells += [f"{statistics.median(found[counter] for found in of_name):,.6g}" for counter in counters]
        head.append(f"| {name} | " + " | ".join(cells) + " |")
        worst[name] = statistics.median(found["probes"]["fsync, same disk"]["p99"] for found in of_name)
    bars(directory / "stall.svg", "Another process's fsync beside each copier, p99", worst, "ms")
    return [*head, "", "![p99 of another process's fsync](stall.svg)", ""]


def _core_dump(part: dict[str, Any]) -> list[str]:
    """Tell what others felt while a core was written, in medians of all rounds."""
    head = [
        "## A core while memory is short",
        "",
        f"A process of {part['size'] >> 20} MiB crashes while {part['available'] >> 20} MiB are available, on a disk"
        f" held to {part['rate'] >> 20} MiB/s (the last rows: neither). Latencies of others in ms.",
        "",
        "| received by | fsync p50 | p99 | fork p99 | 8 MiB p99 | cache MiB | allocstall | gone s | disk MiB |",
        "|---|" + "---:|" * 8,
    ]
    for name in dict.fromkeys(found["way"] for found in part["rounds"]):
        of_way = [found for found in part["rounds"] if found["way"] == name]
        values = [
            *(("fsync, same disk", share) for share in ("p50", "p99")), ("fork + exec", "p99"), ("touch 8 MiB", "p99")
        ]  # fmt: skip
        cells = [statistics.median(found["probes"][probe][share] for found in of_way) for probe, share in values]
        counters = ("cache_growth_mib", "allocstall", "gone_s", "on_disk_mib")
        cells += [statistics.median(found.get(counter, 0) for found in of_way) for counter in counters]
        head.append(f"| {name} | " + " | ".join(f"{cell:,.6g}" for cell in cells) + " |")
    return [*head, ""]


def _slab(rows: list[dict[str, Any]]) -> list[str]:
    crowds = list(dict.fromkeys(row["processes"] for row in rows))
    by_reader: dict[str, list[str]] = {}
    for row in rows:
        by_reader.setdefault(row["reader"], []).append(
            f"{row['peak_mib']:,.1f} / {row['left_mib']:,.1f} / {row['seconds']:.2f}"
        )
    return [
        "## What looking at all processes costs the kernel",
        "",
        "Growth of the slab in MiB: peak / left one second later / seconds it took. Idle processes beside everybody"
        f" else's; dentries and inodes dropped before each run. Medians of {len(rows[0]['runs'])} runs in turn, of sos"
        f" {min(len(row['runs']) for row in rows)}.",
        "",
        "| reader | " + " | ".join(f"{processes:,} processes" for processes in crowds) + " |",
        "|---|" + "---:|" * len(crowds),
        *(f"| {reader} | " + " | ".join(cells) + " |" for reader, cells in by_reader.items()),
        "",
    ]


def _verbs(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "## How long a verb takes on an archive of 500 incidents",
        "",
        f"From the start of its process, in ms; medians of {rows[0]['runs']} runs, everything in the page cache.",
        "",
        "| verb | first output | end | processor | lines |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| `{row['verb']}` | {row['first_ms']:.0f} | {row['end_ms']:.0f} | {row['cpu_ms']:.0f} | {row['lines']} |"
            for row in rows
        ),
        "",
    ]
