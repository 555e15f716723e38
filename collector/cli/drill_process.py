"""A process that dies by a real signal, in a directory of its own, by a name that nobody mistakes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from collector.model.errors import CollectorError
from collector.model.signals import signal_name

COMM = "collector-drill"
"""As many characters as the kernel keeps of a name."""

LIVES_S = 1.2
"""Twice as long as `process_exits` takes to learn of a new process (`POLL_S`), as other processes that crash."""

# It keeps nothing of its parent: no environment, no memory. The last argument shows in its command line.
DIES = f"""
import os, signal, sys, time
open("/proc/self/comm", "w").write({COMM!r})
os.chdir(sys.argv[2])
time.sleep({LIVES_S})
os.kill(os.getpid(), signal.SIGSEGV)
"""


class Crashed(NamedTuple):
    """A process that died *at_s* (wall clock); *dumped*: the kernel says that it dumped core."""

    pid: int
    at_s: float
    signal: int
    dumped: bool
    core_limit: int

    @property
    def ended_by(self) -> str:
        return signal_name(self.signal)


@contextlib.contextmanager
def crashed() -> Iterator[Crashed]:
    """
    Crash a process; its directory, where a relative ``core_pattern`` leaves the core, is removed after the block.

    Its core limit is that of whoever called: what it shows is what a service with that limit would.

    Raises:
        CollectorError: If it did not die of the signal.
        OSError: If it cannot be started, or no file system has room for its directory.
    """
    with tempfile.TemporaryDirectory(prefix=f"{COMM}-", ignore_cleanup_errors=True) as directory:
        at_s = time.time()
        pid = _spawn(directory)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            raise CollectorError(f"the process of the drill ended with status {os.waitstatus_to_exitcode(status)}")
        soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
        yield Crashed(pid, at_s, os.WTERMSIG(status), os.WCOREDUMP(status), soft)


def _spawn(directory: str) -> int:
    """Start it in *directory*; a signal that whoever called blocks would not kill it."""
    argv = [sys.executable, "-I", "-S", "-c", DIES, COMM, directory]
    return os.posix_spawn(sys.executable, argv, {}, setsigmask=[], setsigdef=[signal.SIGSEGV])
