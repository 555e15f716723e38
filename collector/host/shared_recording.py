"""The flight recorder's memory, shared with the workers that are forked after it was made."""

from __future__ import annotations

import mmap
import time

from collector.host.clock import boot_s
from collector.model.recording import RecorderSettings, Recording, memory_bytes

_shared: list[Recording] = []  # one per process: its own, or the one it inherited


def share(settings: RecorderSettings, *, by_hand: bool = False) -> Recording | None:
    """
    Make the recorder's memory, which every process forked from now on shares; ``None`` if it is off.

    It is touched here: later, a page may not be there. It is never unmapped.

    Args:
        by_hand: For a single run, without a daemon.
    """
    _shared.clear()
    if not settings.rows:
        return None
    memory = mmap.mmap(-1, memory_bytes(settings))
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 0
    recording = Recording(memoryview(memory), settings)
    recording.start(boot_ns=round(boot_s() * 1e9), wall_ns=time.time_ns(), by_hand=by_hand)
    _shared.append(recording)
    return recording


def shared() -> Recording | None:
    """Return the recording that this process made or inherited."""
    return _shared[0] if _shared else None
