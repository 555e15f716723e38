"""``python -m benchmarks``: run all of it, as root, on a machine that does nothing else. About half an hour."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import report, slab, stall, throughput
from benchmarks.machine import GIB, SCRATCH, disk, run

DISK = 10 * GIB  # the largest copy and some room
Part = Callable[[Path, int], object]


def on_a_disk(part: Part) -> Part:
    """Give a part a fresh disk in the scratch directory."""

    def run_there(scratch: Path, runs: int) -> object:
        with disk(scratch, DISK) as target:
            return part(target, runs)

    return run_there


PARTS: dict[str, Part] = {
    "dense": on_a_disk(throughput.dense),
    "memory": on_a_disk(throughput.memory),
    "holes": on_a_disk(throughput.holes),
    "stall": stall.rounds,
    "slab": slab.rounds,
}
RESULTS = Path(__file__).parent / "results"
STEAL = 7  # proc(5), /proc/stat


def main() -> int:
    """Run what is asked for; what is not keeps its earlier results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="dense, memory, holes, stall, slab [all]")
    parser.add_argument("--runs", type=int, default=7, help="paired runs [7]")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="on the disk to be measured [/var/tmp]")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("needs root: loop devices, a throttle, tmpfs with huge pages", file=sys.stderr)
        return 77
    if shutil.which("fio") is None:
        print("needs fio; on Debian: apt-get install fio", file=sys.stderr)
        return 69
    results: dict[str, Any] = {}
    if (RESULTS / "results.json").exists():
        results = json.loads((RESULTS / "results.json").read_text())
    results["machine"] = results.get("machine", {}) | machine(given.scratch)
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="collector-bench-") as scratch:
        for part in given.parts or PARTS:
            before = processor_times()
            results[part] = PARTS[part](Path(scratch), given.runs)
            spent = [after - was for after, was in zip(processor_times(), before, strict=True)]
            results["machine"][f"stolen while {part}"] = f"{spent[STEAL] / sum(spent):.1%} of the processors' time"
            report.write(RESULTS, results)
    print((RESULTS / "results.md").read_text())
    return 0


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
