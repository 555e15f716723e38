"""Fuzzes one parser in this process: ``python -m fuzz.one NAME SECONDS``."""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["collector"]) if atheris else contextlib.nullcontext():
    from fuzz.parsers import PARSERS
from fuzz.damage import damaged
from fuzz.seeds import CORPUS, seeds

# CPU time that no input of these sizes may take; the slowest well-formed ones take 0.02 s.
SLOW_S = 2.0
MEMORY_MIB = 1024


def timed(parser: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return the parser with a limit on its time."""

    def run(data: bytes) -> None:
        start_s = time.process_time()
        parser(data)
        taken_s = time.process_time() - start_s
        if taken_s > SLOW_S:
            raise AssertionError(f"{len(data)} bytes took {taken_s:.1f} s")

    return run


def guided(name: str, seconds: str) -> None:
    """Let libFuzzer look for inputs that reach new code; it ends the process."""
    with tempfile.TemporaryDirectory() as directory:
        begin = Path(directory)
        whole = seeds(name)
        for number, data in enumerate(whole):
            (begin / str(number)).write_bytes(data)
        (CORPUS / name).mkdir(exist_ok=True)
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={max(4096, 2 * max(map(len, whole)))}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-artifact_prefix={CORPUS / name}/",
            "-timeout=30",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, directory], timed(PARSERS[name]))
        atheris.Fuzz()


def at_random(name: str, seconds: str) -> int:
    """Damage the seeds at random; keep the first that breaks the parser."""
    parser, whole, chance = timed(PARSERS[name]), seeds(name), random.Random()
    until_s, count = time.monotonic() + float(seconds), 0
    try:
        while time.monotonic() < until_s:
            data = damaged(whole, chance, chance.randrange(1, 9))
            count += 1
            parser(data)
    except Exception:
        (CORPUS / name).mkdir(exist_ok=True)
        (CORPUS / name / f"crash-{sha1(data).hexdigest()}").write_bytes(data)
        raise
    finally:
        print(f"stat::number_of_executed_units: {count}", file=sys.stderr)


if __name__ == "__main__":
    (guided if atheris else at_random)(sys.argv[1], sys.argv[2])
