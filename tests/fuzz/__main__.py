"""
Fuzzes each parser for some seconds, two at a time, guided by coverage.

    make fuzz SECONDS=60
    make fuzz SECONDS=600 PARSERS="core report"

Prints how many inputs each parser was given. One that breaks it is left in `corpus`, where the unit tests find it from
then on; the exit status is then 1. Without atheris, inputs are damaged at random.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.seeds import MAKERS

TESTS = Path(__file__).parents[1]
JOBS = 2


def main(seconds: str, names: list[str]) -> int:
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: inputs are damaged at random, not guided by coverage")
    os.nice(15)
    with ThreadPoolExecutor(JOBS) as pool:
        return max(pool.map(lambda name: fuzz(name, seconds), names))


def fuzz(name: str, seconds: str) -> int:
    """Fuzz one parser in a process of its own; return 1 if something broke it, and print what."""
    command = [sys.executable, "-m", "fuzz.one", name, seconds]
    with tempfile.TemporaryDirectory(prefix="collector-fuzz-") as directory:  # libFuzzer ends without cleaning up
        environment = {**os.environ, "TMPDIR": directory}
        found = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, check=False)
    said = (found.stderr + found.stdout).decode(errors="replace")
    count = re.findall(r"number_of_executed_units: +(\d+)", said)
    print(
        f"{name:10} {int(count[-1]) if count else 0:>10,} inputs  {'BROKEN' if found.returncode else 'ok'}", flush=True
    )
    if found.returncode:
        shown = [line for line in said.splitlines() if not line.startswith(("#", "INFO:", "stat::"))]
        print("\n".join(shown[-30:]), flush=True)
    return int(found.returncode != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:] or list(MAKERS)))
