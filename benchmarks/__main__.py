"""
``python -m benchmarks``: run the default parts as root on an otherwise idle machine; about half an hour.

The other parts run only if they are named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import core_dump, prompt, report, slab, stall, starving, throughput, verbs
from benchmarks.machine import GIB, SCRATCH, disk, run

DISK = 10 * GIB  # the largest copy and some room


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """
    Settings of one part.

    Args:
        scratch: A directory for this part only.
        runs: Number of runs; ``None`` for the part's default.
        cells: Cells of *starving*.
        earlier: The results of an earlier run of the part.
        keep: Called with intermediate results by parts that take long.
    """

    scratch: Path
    runs: int | None
    cells: list[starving.Cell]
    earlier: Any
    keep: Callable[[Any], None]


Part = Callable[[PartSettings], object]


def on_a_disk(part: Callable[[Path, int], object]) -> Part:
    """Run a part on a fresh disk in the scratch directory."""

    def run_there(settings: PartSettings) -> object:
        with disk(settings.scratch, DISK) as target:
            return part(target, settings.runs or RUNS)

    return run_there


RUNS = 7
PARTS: dict[str, Part] = {
    "dense": on_a_disk(throughput.dense),
    "memory": on_a_disk(throughput.memory),
    "holes": on_a_disk(throughput.holes),
    "stall": lambda settings: stall.rounds(settings.scratch, settings.runs or RUNS),
    "starving": lambda settings: starving.matrix(
        settings.scratch, settings.cells, settings.runs or starving.PAIRS, settings.earlier, settings.keep
    ),
    "loops": lambda settings: prompt.loops(settings.scratch, settings.runs or prompt.CRASHES),
    "second": lambda settings: prompt.second(settings.scratch, settings.runs or prompt.ROUNDS),
    "core-dump": lambda settings: core_dump.rounds(settings.scratch, settings.runs or core_dump.RUNS),
    "slab": lambda settings: slab.rounds(settings.scratch, settings.runs or RUNS),
    "verbs": lambda settings: verbs.rounds(settings.scratch, settings.runs or RUNS),
}
DEFAULT = ["dense", "memory", "holes", "stall"]
"""The others have to be named: *starving* takes all but 50 MiB of the machine's memory."""

WITH_FIO = {"dense", "memory", "holes"}
RESULTS = Path(__file__).parent / "results"
STEAL = 7  # proc(5), /proc/stat


def main() -> int:
    """Run the named parts; the others keep their earlier results."""
    given = arguments()
    parts = given.parts or DEFAULT
    if os.geteuid() != 0:
        print("needs root: loop devices, a throttle, tmpfs with huge pages, cores", file=sys.stderr)
        return 77
    if WITH_FIO & set(parts) and shutil.which("fio") is None:
        print("needs fio; on Debian: apt-get install fio", file=sys.stderr)
        return 69
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # everything is restored on the way out
    results: dict[str, Any] = {}
    if (given.results / "results.json").exists():
        results = json.loads((given.results / "results.json").read_text())
    results["machine"] = results.get("machine", {}) | machine(given.scratch)

    def keep(part: str, found: Any) -> None:
        results[part] = found
        report.write(given.results, results)

    for part in parts:
        before = processor_times()
        with tempfile.TemporaryDirectory(dir=given.scratch, prefix="collector-bench-") as scratch:
            settings = PartSettings(
                scratch=Path(scratch),
                runs=given.runs,
                cells=given.cells,
                earlier=results.get(part),
                keep=lambda found, part=part: keep(part, found),  # type: ignore[misc]
            )
            found = PARTS[part](settings)
        spent = [after - was for after, was in zip(processor_times(), before, strict=True)]
        results["machine"][f"stolen while {part}"] = f"{spent[STEAL] / sum(spent):.1%} of the processors' time"
        keep(part, found)
    print((given.results / "results.md").read_text())
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} [{', '.join(DEFAULT)}]")
    parser.add_argument(
        "--runs",
        type=int,
        help=f"paired runs [{RUNS}; starving: {starving.PAIRS}; crashes beside loops: {prompt.CRASHES};"
        f" second: {prompt.ROUNDS}]",
    )
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="on the disk to be measured [/var/tmp]")
    parser.add_argument(
        "--cells",
        type=starving.cells_of,
        default="",
        help="for starving: MIB or MIB:BESIDE, separated by commas; BESIDE is nothing, cp or allocator [all of"
        f" {', '.join(map(str, starving.AMOUNTS))}]",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results.json and results.md go")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return given


def processor_times() -> list[int]:
    """Return the ticks of all processors by kind; guest time is included in user time."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def machine(scratch: Path) -> dict[str, str]:
    """Describe the machine."""
    below = run("findmnt", "-no", "SOURCE,FSTYPE", "-T", scratch)
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB",
        "disk": f"ext4 on a loop device with direct I/O over a written file, on {below}",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


if __name__ == "__main__":
    sys.exit(main())
