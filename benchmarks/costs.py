"""
What each light collector costs in a warm process, of an ordinary crashed process and of a large one.

    sudo .venv/bin/python -m benchmarks.costs [COLLECTOR]...

The least CPU time of five runs, the bytes and system calls of reading (``/proc/self/io``), and what was yielded. The
large process has 200 threads, 2,000 mappings and 500 descriptors, and 20 cgroups above it. The peak of memory is
measured by ``tests/contract/test_collectors_cost.py``, which prints it with ``-s``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from collector.collectors.base import Collector, Context
from collector.collectors.registry import COLLECTORS
from collector.host.files import Host
from collector.model.artifact import Bulk, Incoming, NotApplicable, Truncated
from collector.model.marker import Marker
from collector.model.pressure import StepClass
from collector.triggers.manual import find_processes, manual_marker

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from loaded import loaded_process

RUNS = 5


def main() -> None:
    wanted = sys.argv[1:] or [name for name, cls in COLLECTORS.items() if cls.footprint.step_class is StepClass.LIGHT]
    print("| collector | process | CPU | read | system calls | artifacts |\n|---|---|---:|---:|---:|---:|")
    with ExitStack() as stack:
        processes = {"ordinary": stack.enter_context(ordinary()), "large": stack.enter_context(loaded_process())}
        for name in wanted:
            for kind, pid in processes.items():
                print(f"| {name} | {kind} | {measured(COLLECTORS[name](), pid)} |", flush=True)


@contextmanager
def ordinary() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) as process:
        try:
            time.sleep(0.3)
            yield process.pid
        finally:
            process.kill()


def measured(collector: Collector, pid: int) -> str:
    """Return the cells of one row."""
    marker = manual_marker("benchmark", find_processes([pid]), uid=0)
    best_s = min(one_run(collector, marker)[0] for _ in range(RUNS))
    before = io_counters()
    _, count, size = one_run(collector, marker)
    spent = {name: after - before[name] for name, after in io_counters().items()}
    read = f"{spent['rchar'] / 1024:.0f} KiB | {spent['syscr']}"
    return f"{best_s * 1000:.1f} ms | {read} | {count}, {size / 1024:.0f} KiB"


def one_run(collector: Collector, marker: Marker) -> tuple[float, int, int]:
    """Return CPU seconds, number and bytes of artifacts."""
    started, count, size = time.process_time(), 0, 0
    try:
        for artifact in collector.collect(Context(host=Host(), marker=marker, deadline_s=time.monotonic() + 60)):
            count += 1
            body = artifact.body
            assert not isinstance(body, Bulk | Incoming)
            try:
                size += len(body) if isinstance(body, bytes) else sum(map(len, body))
            except Truncated as exc:
                print(f"{artifact.path}: {exc.reason}", file=sys.stderr)
    except (NotApplicable, Truncated) as exc:
        print(f"{collector.name}: {exc.reason}", file=sys.stderr)
    return time.process_time() - started, count, size


def io_counters() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


if __name__ == "__main__":
    main()
