"""
A core of 2 GiB that is received onto a disk held to 100 MiB/s: what pace costs whom.

A faster pace lets the crashed process go sooner, and makes another process's fsync wait for longer. The sender is a
process that writes to a socket, as the kernel does; nothing crashes.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import MIB, PeakWatch, reclaim
from benchmarks.stall import RATE, SIZE, Prober, slow_disk, writer
from collector.copying import buffers
from collector.copying.incoming import receive
from collector.model.artifact import Incoming

IDLE_S = 10
PACES: dict[str, str | int | None] = {"idle": None, "adaptive, first": "adaptive", "adaptive, known": "adaptive"} | {
    f"{share} %": RATE * share // 100 for share in (90, 80, 70, 50)
}


def frontier() -> list[dict[str, Any]]:
    """Return a row for each pace; the disk's limit is known from the second on."""
    buffers.warm()
    with slow_disk() as slow, writer(slow) as fsync:
        return [_row(name, rate, slow, Prober("fsync", fsync)) for name, rate in PACES.items()]


def _row(name: str, rate: str | int | None, slow: Path, prober: Prober) -> dict[str, Any]:
    watch, before = PeakWatch(), reclaim()
    prober.start(0)
    started = time.monotonic()
    try:
        with watch.watching():
            if rate is None:
                time.sleep(IDLE_S)
            else:
                _receive(slow, rate)
        seconds = time.monotonic() - started
    finally:
        waits_ms = prober.stop()
    return {
        "pace": name,
        "seconds": round(seconds, 1),
        "fsync_p50_ms": waits_ms["p50"],
        "fsync_p99_ms": waits_ms["p99"],
        "fsync_max_ms": waits_ms["max"],
        "cache_growth_mib": (watch.cache_peak - watch.cache_before) // MIB,
        "allocstall": reclaim()["allocstall"] - before["allocstall"],
    }


def _receive(slow: Path, rate: str | int) -> None:
    receiving, sending = socket.socketpair()
    sender = os.fork()
    if not sender:
        receiving.close()
        _send(sending)
    sending.close()
    directory = os.open(slow, os.O_RDONLY | os.O_DIRECTORY)
    try:
        receive(Incoming(fd=receiving.fileno(), size_bytes=SIZE), directory_fd=directory, name="core", rate=rate)
        os.unlink("core", dir_fd=directory)
    finally:
        receiving.close()
        os.close(directory)
        os.waitpid(sender, 0)


def _send(sock: socket.socket) -> None:
    """Send random bytes and end the process."""
    try:
        data = os.urandom(MIB)
        for _ in range(SIZE // MIB):
            sock.sendall(data)
    finally:
        os._exit(0)
