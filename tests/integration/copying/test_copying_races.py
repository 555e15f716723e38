"""Sources that change and copiers that are killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import xxhash
from copying_fixtures import MIB, Destination, copied, same, segment

from collector.copying import engine
from collector.model.copying import CopySettings, Digest, MethodChoice

MESS = """
import ctypes, os, random, sys
punch = ctypes.CDLL(None).fallocate64
punch.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fd = os.open(sys.argv[1], os.O_RDWR)
size = os.fstat(fd).st_size
rng = random.Random(int(sys.argv[2]))
piece = bytes(range(256)) * 64
while True:
    at = rng.randrange(size)
    kind = rng.randrange(5)
    if kind == 0:
        os.ftruncate(fd, at)
    elif kind == 1:
        os.ftruncate(fd, size)
    elif kind == 2:
        os.pwrite(fd, piece, at)
    elif kind == 3:
        punch(fd, 3, at, 200_000)
    else:
        os.posix_fallocate(fd, at // 4096 * 4096, 65536)
    if rng.randrange(8) == 0:
        os.ftruncate(fd, size)
        for offset in range(0, size, 65536):
            os.pwrite(fd, piece * 4, offset)
"""


def race(target: Destination, count: int, seed: int) -> set[str]:
    """Copy a segment *count* times while another process truncates, extends and rewrites it."""
    seen = set()
    rng = random.Random(seed)
    with segment(2 * MIB) as source:
        # In another process, so that only the copier could get a SIGBUS.
        mess = subprocess.Popen([sys.executable, "-c", MESS, source, str(seed)])
        try:
            for number in range(count):
                settings = CopySettings(
                    rate="max",
                    method=rng.choice([MethodChoice.SPLICE, MethodChoice.MMAP, MethodChoice.BOUNCE]),
                    writers=rng.choice([1, 2, 4]),
                    chunk_bytes=rng.choice([65_536, 262_144]),
                    digest=rng.choice([Digest.NONE, Digest.XXH3_128]),
                )
                seen.add(judged(target, source, f"copy{number}", settings))
                os.unlink(f"copy{number}", dir_fd=target.fd)
        finally:
            mess.kill()
            mess.wait()
    return seen


def judged(target: Destination, source: Path, name: str, settings: CopySettings) -> str:
    """Copy once; check that the report matches the file."""
    fd = os.open(source, os.O_RDONLY)
    before = os.fstat(fd).st_size
    try:
        report = engine.copy(fd, directory_fd=target.fd, name=name, settings=settings)
    finally:
        os.close(fd)
    data = (target.path / name).read_bytes()
    assert len(data) == report.size_bytes
    assert report.data_bytes <= report.size_bytes
    assert report.truncated == (report.truncated_reason is not None)
    if report.truncated:
        assert "shrank" in str(report.truncated_reason)
    if report.digest and settings.method is MethodChoice.BOUNCE:
        assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"
    return "truncated" if report.truncated else "whole" if before else "empty"


def test_copy_reports_correctly_when_the_source_changes_under_it(target: Destination) -> None:
    """Truncate, extend, punch, rewrite: no crash, no hang, and every report is correct."""
    assert {"truncated", "whole"} <= race(target, 150, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_copy_reports_correctly_in_ten_thousand_races(target: Destination) -> None:
    """The same, ten thousand times."""
    assert {"truncated", "whole"} <= race(target, 10_000, seed=2)


COPIER = """
import os, sys
from collector.copying import engine
from collector.model.copying import CopySettings
source = os.open(sys.argv[1], os.O_RDONLY)
target = os.open(sys.argv[2], os.O_RDONLY)
for number in range(100_000):
    print(number, flush=True)
    engine.copy(source, directory_fd=target, name=f"copy{number}", settings=CopySettings(rate="max", chunk_bytes=65536))
"""


@pytest.mark.parametrize("seed", range(6))
def test_copy_leaves_nothing_unfinished_under_its_final_name_when_killed(target: Destination, seed: int) -> None:
    """SIGKILL at any moment: a file with the final name is complete; an incomplete one ends in `.part`."""
    with segment(8 * MIB + 5) as source:
        copier = subprocess.Popen(
            [sys.executable, "-c", COPIER, source, target.path], stdout=subprocess.PIPE, text=True
        )
        assert copier.stdout is not None
        copier.stdout.readline()
        time.sleep(random.Random(seed).uniform(0.0, 0.15))
        copier.send_signal(signal.SIGKILL)
        copier.wait()
        names = target.names()
        for name in names:
            assert name.endswith(".part") or same(source, target.path / name), name
        assert sum(name.endswith(".part") for name in names) <= 1


def test_two_copies_at_once_do_not_share_a_buffer(target: Destination) -> None:
    """Copies in several threads of one process have separate buffers."""
    with segment(24 * MIB) as first, segment(24 * MIB) as second:
        settings = CopySettings(rate="max", method=MethodChoice.BOUNCE, digest=Digest.XXH3_128)
        threads = [
            threading.Thread(target=copied, args=(source, target, f"copy{number}", settings))
            for number, source in enumerate((first, second))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert same(first, target.path / "copy0")
        assert same(second, target.path / "copy1")
