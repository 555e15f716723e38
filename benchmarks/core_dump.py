"""
Harm to others while the kernel dumps the core of a large process.

A process of 2 GiB crashes while about 1 GiB is available, on a disk held to 100 MiB/s as in the part *stall*: the
kernel writes the file itself; systemd-coredump of Debian receives it; the daemon does, in full by socket and by pipe,
at several rates, and the stacks only. ``COREDUMP`` in the environment names systemd-coredump's program where it is not
installed (``dpkg -x``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import stall
from benchmarks.ballast import Ballast
from benchmarks.crashes import Crasher, compiled
from benchmarks.machine import GIB, MIB, PeakWatch, reclaim
from benchmarks.probed import WaitingProber
from benchmarks.shipped import CORE_PATTERN, LOCK, ShippedDaemon, core_pattern

SIZE, AVAILABLE, DISK = 2 * GIB, GIB, 6 * GIB
IDLE_S, AFTER_S, LIMIT_S = 20.0, 3.0, 300.0
"""Probes go on for a while after the process is gone: what the page cache holds is still being written."""

RUNS = 3

RATES = (50, 60, 70, 80, 90)
COREDUMP = Path(os.environ.get("COREDUMP", "/usr/lib/systemd/systemd-coredump"))
STORE, SOCKET = Path("/var/lib/systemd/coredump"), Path("/run/systemd/coredump")

HELD = """\
triggers:
  - {{id: held, type: kernel_cores, pipeline: crash, mode: {mode}, hold: 2m}}
copy: {{rate: {rate}}}
pipelines: {{crash: {{steps: [{{id: core, with: {{content: {content}}}}}]}}}}
"""

Found = dict[str, Any]
Receiver = Callable[[Path, Path], contextlib.AbstractContextManager[Path]]
"""Opens a way to receive cores, for a disk and a scratch directory; yields the directory that they are kept in."""


@dataclass(frozen=True)
class Way:
    """One way to receive a core; nothing crashes without *receiver*."""

    name: str
    receiver: Receiver | None = None
    held: bool = True
    """Whether the memory is short and the disk slow."""


@contextlib.contextmanager
def to_a_file(disk: Path, _scratch: Path) -> Iterator[Path]:
    """Let the kernel write the file."""
    cores = disk / "cores"
    cores.mkdir(exist_ok=True)
    with core_pattern(cores):
        yield cores


@contextlib.contextmanager
def systemd_coredump(disk: Path, _scratch: Path) -> Iterator[Path]:
    """Start systemd-coredump as its units do, with its directory on the disk."""
    kept = disk / "coredump"
    kept.mkdir(exist_ok=True)
    for directory in (STORE, SOCKET.parent):
        directory.mkdir(parents=True, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    listen = f"mount --bind {kept} {STORE}; exec systemd-socket-activate --seqpacket -a -l {SOCKET} {COREDUMP}"
    listening = subprocess.Popen(["unshare", "-m", "sh", "-ec", listen], stderr=subprocess.DEVNULL)
    try:
        while not SOCKET.exists():
            time.sleep(0.05)
        with core_pattern(f"|{COREDUMP} %P %u %g %s %t %c %h"):
            yield kept
    finally:
        listening.terminate()
        listening.wait()
        SOCKET.unlink(missing_ok=True)


def collector(content: str, mode: str = "socket", rate: str = "adaptive") -> Receiver:
    """Start the daemon as shipped, with the trigger switched on."""

    @contextlib.contextmanager
    def receiving(disk: Path, scratch: Path) -> Iterator[Path]:
        more = HELD.format(mode=mode, rate=rate, content=content)
        with open(LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with ShippedDaemon(disk, scratch, more=more) as daemon:
                if CORE_PATTERN.read_text()[0] not in "@|":
                    raise RuntimeError(f"the daemon has not registered: {daemon.log.read_text()}")
                yield daemon.archive

    return receiving


WAYS = (
    Way("idle"),
    Way("kernel to a file", to_a_file),
    Way("systemd-coredump", systemd_coredump),
    Way("collector, full, socket", collector("full")),
    Way("collector, full, pipe", collector("full", "pipe")),
    Way("collector, stacks", collector("stacks")),
    *(Way(f"collector, full, at {rate} MiB/s", collector("full", rate=f"{rate}MiB/s")) for rate in RATES),
    Way("fast disk: kernel to a file", to_a_file, held=False),
    Way("fast disk: collector, full, socket", collector("full"), held=False),
    Way("fast disk: collector, full, pipe", collector("full", "pipe"), held=False),
)


def one(way: Way, disk: Path, scratch: Path, program: Path, ballast: Ballast | None) -> Found:
    """Let one process crash while the probes run."""
    scratch.mkdir()
    with contextlib.ExitStack() as stack:
        probers = [
            WaitingProber("fork + exec", stall.spawn),
            WaitingProber("touch 8 MiB", stall.touch),
            WaitingProber("fsync, same disk", stack.enter_context(stall.writer(disk))),
        ]
        kept = stack.enter_context(way.receiver(disk, scratch)) if way.receiver else None
        victim = stack.enter_context(Crasher(program, SIZE)) if way.receiver else None
        for turn, prober in enumerate(probers):
            stack.callback(prober.dismiss)
            prober.start(stall.PERIOD_S * turn / len(probers))
        if ballast is not None:
            ballast.leave(AVAILABLE)
        before, watch = reclaim(), PeakWatch()
        for prober in probers:
            prober.begin()
        found: Found = {"way": way.name}
        with watch.watching():
            began_s = time.time()
            if victim is not None:
                found["gone_s"] = round(victim.crash() - began_s, 3)
                time.sleep(AFTER_S)
            else:
                time.sleep(IDLE_S)
        found["probes"] = {prober.name: prober.stop() for prober in probers}
        after = reclaim()
        found |= {counter: after[counter] - before[counter] for counter in before}
        found["cache_growth_mib"] = (watch.cache_peak - watch.cache_before) // MIB
        if kept is not None:
            found["on_disk_mib"] = round(settled_bytes(kept) / MIB, 1)
    return found


def settled_bytes(directory: Path) -> int:
    """Return the space that all files take, once there are some and they have stopped growing."""
    end_s, before = time.monotonic() + LIMIT_S, -1
    while time.monotonic() < end_s:
        now = sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))
        if now and now == before:
            return now
        before = now
        time.sleep(2)
    raise RuntimeError(f"{directory} is still growing")


def rounds(scratch: Path, runs: int) -> Found:
    """Return *runs* rounds of all ways."""
    found: list[Found] = []
    program = compiled(scratch)
    ways = [way for way in WAYS if way.receiver is not systemd_coredump or COREDUMP.exists()]
    for number in range(runs):
        for place, way in enumerate(ways):
            at = scratch / f"{number}-{place}"
            with contextlib.ExitStack() as stack:
                if way.held:
                    disk = stack.enter_context(stall.slow_disk(DISK))
                    ballast = stack.enter_context(Ballast())
                else:
                    disk, ballast = scratch / f"disk-{number}-{place}", None
                    disk.mkdir()
                found.append(one(way, disk, at, program, ballast))
            print(found[-1], flush=True)
            if not way.held:
                subprocess.run(["rm", "-rf", disk], check=True)
                os.sync()
    return {"size": SIZE, "available": AVAILABLE, "rate": stall.RATE, "rounds": found}
