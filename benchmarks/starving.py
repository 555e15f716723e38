"""
Crashes on a machine with almost no memory left, with the daemon as shipped.

``python -m benchmarks starving [--cells 400:cp,50:nothing]``. For each amount of available memory, beside nothing, a
`cp` to the same disk, or a process that keeps allocating: alternating pairs of a window without a crash and one with;
then one such pair with the probes, which need memory themselves.

One daemon serves all cells: it is started while memory is plentiful and stays warm, as on a real machine. Archive and
cores are on a disk throttled to 100 MiB/s, as in the part *stall*. An incident is deleted once its manifest has been
read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import stall
from benchmarks.ballast import Ballast, BallastLostError
from benchmarks.crashes import UNSEALED, Crasher, compiled, outcome
from benchmarks.machine import GIB, MIB, reclaim, segment
from benchmarks.probed import WaitingProber
from benchmarks.shipped import ShippedDaemon, core_pattern

AMOUNTS = (1000, 400, 200, 100, 50)
LEAST_AMOUNT = 50
BESIDES = ("nothing", "cp", "allocator")
PAIRS = 5
WINDOW_S = 6.0
"""A window lasts at least this long, and one with a crash until the incident is sealed: rates are compared."""

LIMIT_S = 180.0
"""An incident that is not sealed by then counts as unsealed, and the daemon is restarted."""

PATIENCE_S = {"nothing": LIMIT_S, "cp": 15.0, "allocator": 15.0}
"""
What runs beside a crash is stopped after this time, and the window ends, if the incident is not sealed by then.

What was held back can follow in the calm after that. In 15 s beside `cp` to a disk of 100 MiB/s anybody can write a few
small files.
"""

SEGMENT, SOURCE, DISK = 256 * MIB, 2 * GIB, 4 * GIB
ALLOCATED = 64 * MIB
PLENTY = 4 * GIB
LOG_LINES = 10
SETTLED_S = {"nothing": 0.0, "cp": 2.0, "allocator": 0.5}
"""How long the other process has been running when a window begins; `cp` reaches the dirty limit within 1 s."""

Found = dict[str, Any]
Cell = tuple[int, str]


def cells_of(text: str) -> list[Cell]:
    """
    Parse the option for cells: ``400:cp,50`` are one cell of 400 MiB and all cells of 50 MiB.

    Raises:
        ValueError: If the syntax or an amount is wrong.
    """
    cells: list[Cell] = []
    for word in text.split(",") if text else map(str, AMOUNTS):
        amount, _, beside = word.partition(":")
        if int(amount) < LEAST_AMOUNT or beside not in ("", *BESIDES):
            raise ValueError(f"{word}: a cell is MIB or MIB:BESIDE, at least {LEAST_AMOUNT}, beside {BESIDES}")
        cells += [(int(amount), beside)] if beside else [(int(amount), every) for every in BESIDES]
    return cells


@dataclass(frozen=True)
class CellSetup:
    """What all cells share."""

    daemon: ShippedDaemon
    ballast: Ballast
    program: Path
    segment: Path
    source: Path
    disk: Path
    probers: tuple[WaitingProber, ...]

    def window(self, cell: Cell, *, crash: bool, probed: bool = False) -> Found:
        """Measure one window: make memory short, start the other process, crash or not."""
        amount, beside = cell
        self.daemon.clear()
        subprocess.run(["sync", "-f", self.disk], check=True)
        with contextlib.ExitStack() as stack:
            victim = stack.enter_context(Crasher(self.program, self.segment)) if crash else None
            probers = self.probers if probed else ()
            for turn, prober in enumerate(probers):
                stack.callback(prober.dismiss)
                prober.start(stall.PERIOD_S * turn / len(probers))
            found: Found = {"available_mib": round(self.ballast.leave(amount * MIB) / MIB, 1)}
            beside_it = stack.enter_context(contextlib.ExitStack())
            beside_it.enter_context(self._beside(beside, amount * MIB))
            time.sleep(SETTLED_S[beside])
            for prober in probers:
                prober.begin()
            counted = WindowCounters(self)
            done_s = victim.crash() if victim else 0.0
            manifest = self.daemon.sealed(victim.pid, PATIENCE_S[beside]) if victim else None
            found |= counted.until(WINDOW_S)
            if probed:
                found["probes"] = {prober.name: prober.stop() for prober in probers}
            if victim:
                found["sealed_meanwhile"] = manifest is not None
                beside_it.close()  # calm returns
                manifest = manifest or self.daemon.sealed(victim.pid, LIMIT_S) or self.daemon.unfinished(victim.pid)
                found |= outcome(manifest, done_s, SEGMENT)
        return found

    def start_afresh(self) -> None:
        """Restart the daemon while memory is plentiful."""
        self.ballast.leave(PLENTY)
        self.daemon.stop()
        self.daemon.start()

    @contextlib.contextmanager
    def _beside(self, beside: str, available: int) -> Iterator[None]:
        """Run another process, started without forking this one, which would need memory."""
        target = self.disk / "beside"
        commands: dict[str, list[object]] = {
            "cp": ["setpriv", "--pdeathsig", "KILL", "sh", "-c", 'while cp "$0" "$1"; do :; done', self.source, target],
            "allocator": [self.program, "allocate", min(ALLOCATED, available // 2)],
        }
        if beside == "nothing":
            yield
            return
        process = subprocess.Popen([str(word) for word in commands[beside]], start_new_session=True)
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError(f"{beside} ended on its own: status {process.returncode}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            target.unlink(missing_ok=True)


class WindowCounters:
    """Counts what happens in a window, from the creation of this object on."""

    def __init__(self, setting: CellSetup) -> None:
        self._setting = setting
        self._before, self._stalled_ms = reclaim(), setting.daemon.stalled_ms()
        self._began_s = time.monotonic()

    def until(self, least_s: float) -> Found:
        """Return the counts once the window has lasted *least_s*."""
        time.sleep(max(0.0, self._began_s + least_s - time.monotonic()))
        seconds, after = time.monotonic() - self._began_s, reclaim()
        least, given_back = self._setting.ballast.seen()
        found: Found = {
            "seconds": round(seconds, 2),
            "least_left_mib": round(least / MIB, 1),
            "ballast_given_back": given_back,
            "own_stalled_ms": round(self._setting.daemon.stalled_ms() - self._stalled_ms, 1),
        }
        for name, before in self._before.items():
            count = after[name] - before
            found |= {name: count, f"{name}_per_s": round(count / seconds, 2)}
        return found


def measure(setting: CellSetup, which: Cell, pairs: int) -> Found:
    """Measure one cell; an error ends that cell only and keeps what was measured."""
    found: Found = {"available_mib": which[0], "beside": which[1], "pairs": []}
    began_s = time.monotonic()
    try:
        if not setting.daemon.runs:
            setting.start_afresh()
        for number in range(pairs):
            found["pairs"].append(pair_of(setting, which, crash_first=number % 2 == 1))
        found["probed"] = pair_of(setting, which, crash_first=False, probed=True)
    except (BallastLostError, RuntimeError, OSError) as exc:
        found["stopped"] = str(exc)
    return found | {"took_s": round(time.monotonic() - began_s)}


def pair_of(setting: CellSetup, which: Cell, *, crash_first: bool, probed: bool = False) -> Found:
    """Measure a window without a crash and one with a crash."""
    pair: Found = {}
    for crash in (True, False) if crash_first else (False, True):
        window = setting.window(which, crash=crash, probed=probed)
        pair["crash" if crash else "quiet"] = window
        if window.get("state") == UNSEALED:
            window["log"] = setting.daemon.log.read_text().splitlines()[-LOG_LINES:]
            setting.start_afresh()
    return pair


def matrix(scratch: Path, cells: list[Cell], pairs: int, earlier: Found | None, keep: Callable[[Found], None]) -> Found:
    """
    Measure *cells*.

    Args:
        scratch: For the daemon's configuration and log.
        cells: Measured in this order.
        pairs: Pairs of windows per cell.
        earlier: Earlier results; cells that are not measured now keep them.
        keep: Called with all results after each cell, so that a killed run keeps them.
    """
    found: Found = dict(earlier or {}) | {
        "window_s": WINDOW_S,
        "segment_mib": SEGMENT // MIB,
        "patience_s": PATIENCE_S["cp"],
    }
    found["cells"] = dict(found.get("cells", {}))
    with (
        stall.slow_disk(DISK) as disk,
        segment(SOURCE) as source,
        segment(SEGMENT) as mapped,
        core_pattern(disk / "cores"),
        ShippedDaemon(disk, scratch) as daemon,
        stall.writer(disk) as synced,
        Ballast() as ballast,
    ):
        probers = (
            WaitingProber("fork + exec", stall.spawn),
            WaitingProber("touch 8 MiB", stall.touch),
            WaitingProber("fsync, same disk", synced),
        )
        setting = CellSetup(daemon, ballast, compiled(scratch), mapped, source, disk, probers)
        for which in cells:
            found["cells"][f"{which[0]}:{which[1]}"] = measure(setting, which, pairs)
            keep(found)
    return found
