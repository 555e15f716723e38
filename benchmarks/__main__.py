"""``python -m benchmarks``: run all of it, as root, on a machine that does nothing else. About half an hour.

*starving*, *loops* and *second* run only if they are named.
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

from benchmarks import prompt, report, slab, stall, starving, throughput
from benchmarks.machine import GIB, SCRATCH, disk, run

DISK = 10 * GIB  # the largest copy and some room


@dataclass(frozen=True, kw_only=True)
class Asked:
    """
    What a part is to do.

    Args:
        scratch: A directory of its own.
        runs: How often; ``None``: as often as the part itself says.
        cells: Cells of *starving*.
        earlier: What the part found before.
        keep: Takes what there is so far; for parts that take long.
    """

    scratch: Path
    runs: int | None
    cells: list[starving.Cell]
    earlier: Any
    keep: Callable[[Any], None]


Part = Callable[[Asked], object]


def on_a_disk(part: Callable[[Path, int], object]) -> Part:
    """Give a part a fresh disk in the scratch directory."""

    def run_there(asked: Asked) -> object:
        with disk(asked.scratch, DISK) as target:
            return part(target, asked.runs or RUNS)

    return run_there


RUNS = 7
PARTS: dict[str, Part] = {
    "dense": on_a_disk(throughput.dense),
    "memory": on_a_disk(throughput.memory),
    "holes": on_a_disk(throughput.holes),
    "stall": lambda asked: stall.rounds(asked.scratch, asked.runs or RUNS),
    "starving": lambda asked: starving.matrix(
        asked.scratch, asked.cells, asked.runs or starving.PAIRS, asked.earlier, asked.keep
    ),
    "loops": lambda asked: prompt.loops(asked.scratch, asked.runs or prompt.CRASHES),
    "second": lambda asked: prompt.second(asked.scratch, asked.runs or prompt.ROUNDS),
    "slab": lambda asked: slab.rounds(asked.scratch, asked.runs or RUNS),
}
DEFAULT = ["dense", "memory", "holes", "stall"]
"""The others want to be named: *starving* takes all memory of the machine but 50 MiB."""

WITH_FIO = {"dense", "memory", "holes"}
RESULTS = Path(__file__).parent / "results"
STEAL = 7  # proc(5), /proc/stat


def main() -> int:
    """Run what is asked for; what is not keeps its earlier results."""
    given = arguments()
    parts = given.parts or DEFAULT
    if os.geteuid() != 0:
        print("needs root: loop devices, a throttle, tmpfs with huge pages, cores", file=sys.stderr)
        return 77
    if WITH_FIO & set(parts) and shutil.which("fio") is None:
        print("needs fio; on Debian: apt-get install fio", file=sys.stderr)
        return 69
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # everything is put back on the way out
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
            asked = Asked(
                scratch=Path(scratch),
                runs=given.runs,
                cells=given.cells,
                earlier=results.get(part),
                keep=lambda found, part=part: keep(part, found),  # type: ignore[misc]
            )
            found = PARTS[part](asked)
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
        help="of starving: MIB or MIB:BESIDE, with commas; beside nothing, cp or allocator [all of"
        f" {', '.join(map(str, starving.AMOUNTS))}]",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results.json and results.md go")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return given


def processor_times() -> list[int]:
    """Return the ticks that all processors spent so far, by what on; guests' time is in user's."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def machine(scratch: Path) -> dict[str, str]:
    """Say what it was measured on."""
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
