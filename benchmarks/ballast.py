"""
Takes memory so that an exact amount is left.

A separate process holds it, the OOM killer's first victim. It watches how much is left, and frees all of it if that
stays close to nothing; it exits with the process that started it, even if that one is killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from benchmarks.machine import MIB, fields

LEAST = 20 * MIB
"""Never leave less than this, nor stay below it for `LONG_S`, whatever else runs."""

LONG_S = 5.0
LOOK_S = 0.05
STEP = 256 * MIB
CLOSE = MIB
"""Counters are exact to about 1 MiB: each processor delays reporting up to 125 pages by a second."""

SETTLE_S = 0.3
TRIES = 400
FIRST_VICTIM = 1000
PR_SET_PDEATHSIG, MCL_CURRENT = 1, 1
DROP = Path("/proc/sys/vm/drop_caches")


class BallastLostError(Exception):
    """The holder has ended, most likely killed by the OOM killer. All its memory is free again."""


class Ballast:
    """The benchmark's side of the holder."""

    def __enter__(self) -> Self:
        self._holder = held()
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.communicate()

    def leave(self, available: int) -> int:
        """
        Grow or shrink until *available* bytes are left; return how many are. A holder that has ended is replaced.

        Raises:
            ValueError: If *available* is close to nothing.
            BallastLostError: If the holder is killed meanwhile.
        """
        if available < 2 * LEAST:
            raise ValueError(f"{available} bytes are too few: the machine would be lost")
        if self._holder.poll() is not None:
            self._holder = held()
        return self._ask("leave", available)[0]

    def seen(self) -> tuple[int, bool]:
        """Return the least that was left since the last call or `leave`, and whether all was freed."""
        least, freed = self._ask("seen", 0)
        return least, bool(freed)

    def _ask(self, what: str, number: int) -> tuple[int, int]:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        try:
            print(what, number, file=self._holder.stdin, flush=True)
            answer = self._holder.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise BallastLostError(f"the holder of the ballast ended: status {self._holder.wait()}")
        first, second = map(int, answer.split())
        return first, second


def held() -> subprocess.Popen[str]:
    """Start a holder."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ballast"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        start_new_session=True,  # an interrupt is for the benchmark alone
    )


class Holder:
    """
    The holder's side: a file on tmpfs.

    All page cache counts as left: MemAvailable excludes up to a watermark's worth of it, so beside `cp` it falls by
    80 MiB although nothing is short. The two agree right after `leave`.
    """

    def __init__(self) -> None:
        self._fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
        self._size = 0
        self._offset: int | None = None
        self._low_since_s: float | None = None
        self._least, self._freed = 1 << 62, False

    def leave(self, available: int) -> int:
        DROP.write_text("3")
        self._offset = None
        settled = False
        for _ in range(TRIES):
            more = fields("/proc/meminfo")["MemAvailable"] - available
            if more < 0 and not self._size:
                break
            if abs(more) > CLOSE:
                settled = False
                self._change(more if more < 4 * CLOSE else min(more // 2, STEP))
            elif settled:
                break
            else:
                settled = True
                time.sleep(SETTLE_S)
        memory = fields("/proc/meminfo")
        self._offset = memory["MemAvailable"] - obtainable(memory)
        self._least, self._freed = memory["MemAvailable"], False
        return memory["MemAvailable"]

    def seen(self) -> tuple[int, bool]:
        found = self._least, self._freed
        self._least, self._freed = 1 << 62, False
        self.look()
        return found

    def look(self) -> None:
        """Record what is left; free everything if it is too little for too long."""
        if self._offset is None:
            return
        left, now_s = obtainable(fields("/proc/meminfo")) + self._offset, time.monotonic()
        self._least = min(self._least, left)
        if left >= LEAST:
            self._low_since_s = None
        elif self._low_since_s is None:
            self._low_since_s = now_s
        elif now_s - self._low_since_s > LONG_S:
            os.ftruncate(self._fd, 0)
            self._size, self._offset, self._low_since_s, self._freed = 0, None, None, True

    def _change(self, more: int) -> None:
        more = max(more, -self._size)
        if more > 0:
            os.posix_fallocate(self._fd, self._size, more)
        else:
            os.ftruncate(self._fd, self._size + more)
        self._size += more


def obtainable(memory: dict[str, int]) -> int:
    """Return the bytes that are free or reclaimable, reserves included."""
    return memory["MemFree"] + memory["Active(file)"] + memory["Inactive(file)"] + memory["KReclaimable"]


def serve() -> None:
    """Execute the commands on standard input until it ends, watching memory in between."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    Path("/proc/self/oom_score_adj").write_text(str(FIRST_VICTIM))
    holder = Holder()
    libc.mlockall(MCL_CURRENT)  # the watcher must not wait for memory
    while True:
        if not select.select([0], [], [], LOOK_S)[0]:
            holder.look()
            continue
        what, _, number = os.read(0, 100).decode().partition(" ")
        if what == "leave":
            print(holder.leave(int(number)), 0, flush=True)
        elif what == "seen":
            least, freed = holder.seen()
            print(least, int(freed), flush=True)
        else:
            return


if __name__ == "__main__":
    serve()
