"""
From the crash to the archived incident: how long the default pipeline takes, segments left out.

``python -m benchmarks.incident [COUNT]`` as root; sets and restores ``core_pattern``. Prints JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
CRASH = "import ctypes; ctypes.string_at(0)"


def main() -> None:
    """Crash Python processes one after the other, and time each until its incident is archived."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory(dir=".") as directory:
        print(json.dumps(measure(Path(directory).resolve(), count), indent=1))


def measure(directory: Path, count: int) -> dict[str, object]:
    """Return the median and the extremes, in seconds from the end of the process."""
    cores, archive = directory / "cores", directory / "archive"
    cores.mkdir()
    config = directory / "collector.yaml"
    config.write_text(shipped(cores, archive))
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(directory / "run")}
    daemon = subprocess.Popen(
        [sys.executable, "-m", "collector.cli.main", "daemon", "--config", str(config)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    before = CORE_PATTERN.read_text()
    try:
        CORE_PATTERN.write_text(f"{cores}/core.%e.%p")
        time.sleep(2)
        taken = [crash(archive, number + 1) for number in range(count)]
    finally:
        CORE_PATTERN.write_text(before)
        daemon.terminate()
        daemon.wait()
    return {"count": count, "median_s": statistics.median(taken), "min_s": min(taken), "max_s": max(taken)}


def shipped(cores: Path, archive: Path) -> str:
    """Return the shipped configuration with these directories, without segments and budgets."""
    text = (resources.files("collector.config") / "default.yaml").read_text()
    text = text.replace("/var/lib/collector ", f"{archive} ").replace("/var/crash, ", f"{cores}, ")
    text = text.replace("coalesce: 5s", "coalesce: 0s").replace("{count: 5,", "{count: 999,")
    text = text.replace("{count: 10,", "{count: 999,").replace("{count: 20,", "{count: 999,")
    return text[: text.index("      - id: segments")] + text[text.index("  brief:") :]


def crash(archive: Path, expected: int) -> float:
    """Crash a process; return the seconds from its end until its incident has its final name."""
    subprocess.run(["sh", "-c", f"ulimit -c unlimited; exec {sys.executable} -c '{CRASH}'"], check=False)
    ended = time.monotonic()
    while len(list(archive.glob("*Z-??????"))) < expected:
        if time.monotonic() > ended + 30:
            raise TimeoutError(f"incident {expected} was not archived within 30 s")
        time.sleep(0.005)
    return time.monotonic() - ended


if __name__ == "__main__":
    main()
