"""The kernel's coredump socket, as it is: a crash is held, and its dump taken or refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from held import coredump_socket, held, next_held

from collector.host.pidfd import pidfd_info

pytestmark = pytest.mark.root
CRASH = [sys.executable, "-I", "-S", "-c", "import os; os.kill(os.getpid(), 11)"]


def test_held_process_is_there_with_its_memory() -> None:
    with held(CRASH) as crashed:
        info = pidfd_info(crashed.pidfd)
        assert (info.pid, info.uid, info.dumped) == (crashed.process.pid, os.getuid(), True)
        assert "CoreDumping:\t1" in Path(f"/proc/{info.pid}/status").read_text(encoding="utf-8")
        assert "[stack]" in Path(f"/proc/{info.pid}/maps").read_text(encoding="utf-8")


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
