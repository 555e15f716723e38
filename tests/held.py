"""A real process that the kernel holds: it crashes while core_pattern is a socket of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from machine import core_pattern, need

from collector.host.files import Host
from collector.host.held_process import DumpSource, HeldProcess
from collector.host.pidfd import peer_pidfd, pidfd_info
from collector.host.procfs import Process
from collector.model.marker import ProcessRef

HOLD_S = 30.0


@contextmanager
def coredump_socket() -> Iterator[socket.socket]:
    """Listen for the kernel's dumps during the block; skip the test where it has no such socket."""
    need("root")
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 17):
        import pytest

        pytest.skip("needs Linux 6.17")
    directory = Path(tempfile.mkdtemp(prefix="held-", dir="/tmp"))  # a path of at most 107 bytes
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listening:
            listening.bind(str(directory / "cores"))
            listening.listen(16)
            listening.settimeout(20)
            with core_pattern(f"@@{directory}/cores"):
                yield listening
    finally:
        shutil.rmtree(directory)


@contextmanager
def held(program: Sequence[str | Path], *, hurry: str = "") -> Iterator[HeldProcess]:
    """Run *program*, which crashes, and yield it as the kernel holds it; let it go at the end."""
    with coredump_socket() as listening, subprocess.Popen(list(map(os.fspath, program))) as process:
        try:
            crashed = next_held(listening, hurry=hurry)
            try:
                yield crashed
            finally:
                crashed.release("the test is over")
        finally:
            process.kill()


def next_held(listening: socket.socket, *, hurry: str = "") -> HeldProcess:
    """Wait for the next crash that the kernel offers."""
    connection, _ = listening.accept()
    pidfd = peer_pidfd(connection)
    pid = pidfd_info(pidfd).pid
    with Process(Host(), pid) as process:
        start_ticks = process.start_ticks
    now_s = time.monotonic()
    return HeldProcess(
        process=ProcessRef(pid=pid, start_time_ticks=start_ticks),
        source=DumpSource.SOCKET,
        stream_fd=connection.detach(),
        pidfd=pidfd,
        since_s=now_s,
        deadline_s=now_s + HOLD_S,
        hurry=hurry,
    )
