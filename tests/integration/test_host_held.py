"""The kernel's coredump socket, as it is: a crash is held, and its dump taken or refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import held_segments
import pytest
from held import coredump_socket, held, next_held

from collector.host.dumping import is_dumping, private_bytes
from collector.host.files import Host
from collector.host.pidfd import pidfd_info
from collector.host.process_identity import identify_task
from collector.model.identity import HOST_MOUNTS

pytestmark = pytest.mark.root
CRASH = [sys.executable, "-I", "-S", "-c", "import os; os.kill(os.getpid(), 11)"]


def test_held_process_is_there_with_its_memory() -> None:
    with held(CRASH) as crashed:
        info = pidfd_info(crashed.pidfd)
        assert (info.pid, info.uid, info.dumped) == (crashed.process.pid, os.getuid(), True)
        assert "CoreDumping:\t1" in Path(f"/proc/{info.pid}/status").read_text(encoding="utf-8")
        assert "[stack]" in Path(f"/proc/{info.pid}/maps").read_text(encoding="utf-8")


def test_process_whose_first_thread_has_exited_is_known_all_the_same() -> None:
    """That it dumps, which a handler's offer must show; how much it holds; its program and its mounts."""
    program = held_segments.without_first_thread(f"collector-known-{os.getpid()}")
    try:
        with held(program) as crashed:
            pid = crashed.process.pid
            assert is_dumping(Host(), pid)
            assert private_bytes(Host(), pid) > 1 << 20
            who = identify_task(Host(), pid, image=True)
            assert who is not None
            assert (who.exe, who.mounts) == (os.path.realpath(sys.executable), HOST_MOUNTS)
            assert who.image
    finally:
        Path("/dev/shm", program[-2]).unlink(missing_ok=True)


def test_dump_is_sent_once_it_is_accepted() -> None:
    with held(CRASH) as crashed:
        crashed.accept()
        assert os.read(crashed.stream_fd, 4) == b"\x7fELF"
        assert crashed.is_held


def test_refused_dump_ends_the_process() -> None:
    with coredump_socket() as listening, subprocess.Popen(CRASH) as process:
        crashed = next_held(listening)
        crashed.refuse("nobody wants it")
        assert process.wait(10) == -signal.SIGSEGV
        assert (crashed.is_held, crashed.ended) == (False, "nobody wants it")
