"""
How promptly the most volatile evidence is read on a machine with enough memory.

``python -m benchmarks loops``: beside eight busy loops, and what the burst of reading costs other processes. The loops,
the daemon and a nice 0 probe share one cgroup of the cpu controller; then each has its own. The SCHED_FIFO probe is in
neither: with CONFIG_RT_GROUP_SCHED a new cgroup has no real-time budget. The cost includes the time in which the kernel
writes the core of 1 MiB.

``python -m benchmarks second``: a crash while the 3 GiB segment of an earlier one is being copied.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import stall
from benchmarks.crashes import Crasher, compiled, outcome
from benchmarks.machine import GIB, MIB, segment
from benchmarks.shipped import ShippedDaemon, cgroup, core_pattern

LOOPS = 8
CRASHES = 10
ROUNDS = 3
SEGMENT, SMALL, LARGE = 256 * MIB, 16 * MIB, 3 * GIB
DISK = 5 * GIB
AROUND_S = 1.0
"""Seconds before and after the order to crash in which probes are counted."""

APART_S = 2.5
LIMIT_S = 300.0
UNDER_WAY = 256 * MIB
"""Bytes that A's copy has written when B crashes."""

SECTOR = 512

Found = dict[str, Any]
Sample = tuple[float, float]


class Lateness:
    """The probe *late* of ``processes.c``: how late a process wakes up from a sleep of 5 ms."""

    def __init__(self, program: Path, policy: str, cpu: Path | None) -> None:
        self._process = subprocess.Popen(
            [program, "late", policy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        if cpu is not None:
            (cpu / "cgroup.procs").write_text(str(self._process.pid))

    def stop(self) -> list[Sample]:
        """Return for each sleep the wall clock at which it should have ended, and the seconds by which it was late."""
        output, _ = self._process.communicate(b"")
        numbers = array.array("d", output)
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


@contextlib.contextmanager
def looping(program: Path, groups: list[Path]) -> Iterator[None]:
    """Keep the processors busy with one loop in each of *groups*."""
    loops = [subprocess.Popen([program, "spin"], start_new_session=True) for _ in groups]
    try:
        for loop, group in zip(loops, groups, strict=True):
            (group / "cgroup.procs").write_text(str(loop.pid))
        yield
    finally:
        for loop in loops:
            loop.send_signal(signal.SIGKILL)
            loop.wait()


def loops(scratch: Path, crashes: int) -> Found:
    """Crash *crashes* times beside the loops, for each of the two divisions of the processors."""
    with stall.slow_disk(DISK) as disk, segment(SMALL) as mapped, core_pattern(disk / "cores"):
        return {
            "loops": LOOPS,
            "same cgroup": _beside_loops(scratch / "same", disk, mapped, crashes, together=True),
            "eight others": _beside_loops(scratch / "others", disk, mapped, crashes, together=False),
        }


def _beside_loops(scratch: Path, disk: Path, mapped: Path, crashes: int, *, together: bool) -> Found:
    scratch.mkdir()
    program = compiled(scratch)
    ordered: list[float] = []
    outcomes: list[Found] = []
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(cgroup("cpu", "daemon"))
        names = [] if together else [f"loop-{number}" for number in range(LOOPS)]
        groups = [stack.enter_context(cgroup("cpu", name)) for name in names] or [own] * LOOPS
        probed = own if together else stack.enter_context(cgroup("cpu", "probe"))
        daemon = stack.enter_context(ShippedDaemon(disk, scratch, cpu=own))
        stack.enter_context(looping(program, groups))
        probes = {"SCHED_FIFO": Lateness(program, "fifo", None), "nice 0": Lateness(program, "other", probed)}
        for probe in probes.values():
            stack.callback(probe.kill)
        for _ in range(crashes):
            with Crasher(program, mapped) as victim:
                time.sleep(APART_S)
                ordered.append(time.time())
                done_s = victim.crash()
                outcomes.append(outcome(daemon.sealed(victim.pid, LIMIT_S), done_s, SMALL))
            daemon.clear()
        samples = {name: probe.stop() for name, probe in probes.items()}
    return {"crashes": outcomes, "late_ms": {name: _lateness(taken, ordered) for name, taken in samples.items()}}


def _lateness(samples: list[Sample], ordered: list[float]) -> Found:
    """Return p50, p99 and the maximum in ms and the number of samples, without and with a crash."""
    found: Found = {}
    for name, after_s in (("quiet", -AROUND_S), ("crash", 0.0)):
        late = sorted(
            1000 * late
            for due_s, late in samples
            if any(at_s + after_s <= due_s < at_s + after_s + AROUND_S for at_s in ordered)
        )
        shares = {"p50": len(late) // 2, "p99": len(late) * 99 // 100, "max": len(late) - 1}
        found[name] = {what: round(late[at], 2) for what, at in shares.items()} | {"samples": len(late)}
    return found


def second(scratch: Path, rounds: int) -> list[Found]:
    """Let B crash while A's segment is being copied, *rounds* times."""
    found: list[Found] = []
    with (
        stall.slow_disk(DISK) as disk,
        segment(LARGE) as large,
        segment(SEGMENT) as small,
        core_pattern(disk / "cores"),
        ShippedDaemon(disk, scratch) as daemon,
    ):
        first, other = compiled(scratch, "first"), compiled(scratch, "second")
        for _ in range(rounds):
            with Crasher(first, large) as a, Crasher(other, small) as b:
                before = written(disk)
                a_done_s = a.crash()
                end_s = time.monotonic() + LIMIT_S
                while written(disk) - before < UNDER_WAY and time.monotonic() < end_s:
                    time.sleep(0.1)
                after_s = time.time() - a_done_s
                b_done_s = b.crash()
                of_b = outcome(daemon.sealed(b.pid, LIMIT_S), b_done_s, SEGMENT)
                of_a = outcome(daemon.sealed(a.pid, LIMIT_S), a_done_s, LARGE)
            found.append({"b_after_s": round(after_s, 2), "a": of_a, "b": of_b})
            daemon.clear()
            subprocess.run(["sync", "-f", disk], check=True)
    return found


def written(disk: Path) -> int:
    """Return the bytes written to the disk so far. Source: Documentation/block/stat.rst."""
    device = os.stat(disk).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text()
    return int(stat.split()[6]) * SECTOR
