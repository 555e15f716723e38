"""Simulates a machine short of memory: in a mount namespace, files are bind-mounted over those of `/proc`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from harness import Daemon

MIB = 1 << 20
PAGE = 4096
NAMES = ("meminfo", "vmstat", "zoneinfo", "pressure/memory")
ZONEINFO = """\
Node 0, zone   Normal
  per-node stats
      nr_inactive_file 512
      nr_active_file 512
      nr_dirty     0
      nr_writeback 0
  pages free     {free}
        boost    0
        min      16384
        low      20480
        high     24576
        managed  6000000
        protection: (0, 0)
"""
KEPT = 16_384 * PAGE
"""The zone's minimum watermark, which is not available."""

CACHE = 512 * PAGE
"""Half of its page cache."""


class FalseMemory:
    """
    What a collector and its workers read of the machine's memory.

    Args:
        directory: Where the files lie that stand for those of `/proc`.
        available: MemAvailable, in bytes.
        room: What can be had before reclaim, in bytes.
    """

    def __init__(self, directory: Path, *, available: int, room: int) -> None:
        self._directory = directory / "proc"
        (self._directory / "pressure").mkdir(parents=True)
        self.offer(available)
        self.stall(0)
        self.leave(room)
        self._write("pressure/memory", "some avg10=0.00 total=1000\nfull avg10=0.00 total=500\n")

    def offer(self, available: int) -> None:
        """Set MemAvailable, in bytes."""
        text = Path("/proc/meminfo").read_text()
        for name, size in {"MemAvailable": available, "MemFree": available, "Dirty": 0, "Writeback": 0}.items():
            text = re.sub(rf"^{name}: .*", f"{name}: {size // 1024:>12} kB", text, flags=re.MULTILINE)
        self._write("meminfo", f"{text:<8000}")

    def stall(self, count: int) -> None:
        """Raise allocstall to *count* above its initial value."""
        self._write("vmstat", f"nr_free_pages 1\nallocstall_normal {1000 + count:>12}\npgscan_direct 7\n")

    def leave(self, room: int) -> None:
        """Set the bytes that can be allocated before reclaim."""
        self._write("zoneinfo", ZONEINFO.format(free=f"{(room + KEPT - CACHE) // PAGE:<12}"))

    def _write(self, name: str, text: str) -> None:
        """Write in place, in one write of constant length: the mount refers to the inode."""
        path = self._directory / name
        path.touch()
        with path.open("r+") as file:
            file.write(text)

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command prefix that makes the command see these files in `/proc`."""
        binds = [f"mount --bind {shlex.quote(str(self._directory / name))} /proc/{name}" for name in NAMES]
        return ("unshare", "--mount", "sh", "-ec", "\n".join([*binds, 'exec "$@"']), "sh")

    def start(self, daemon: Daemon) -> None:
        """Start *daemon* so that it sees these files in `/proc`."""
        daemon.start(*self.prefix)
