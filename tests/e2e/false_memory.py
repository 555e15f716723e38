"""Programs that see a machine short of memory: files of `/proc` are covered in a mount namespace of their own."""

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
"""What the zone keeps back: its minimum."""

CACHE = 512 * PAGE
"""What half of its page cache comes to."""


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
        """Let so many bytes be available."""
        text = Path("/proc/meminfo").read_text()
        for name, size in {"MemAvailable": available, "MemFree": available, "Dirty": 0, "Writeback": 0}.items():
            text = re.sub(rf"^{name}: .*", f"{name}: {size // 1024:>12} kB", text, flags=re.MULTILINE)
        self._write("meminfo", f"{text:<8000}")

    def stall(self, count: int) -> None:
        """Let allocstall be so many more than at the start."""
        self._write("vmstat", f"nr_free_pages 1\nallocstall_normal {1000 + count:>12}\npgscan_direct 7\n")

    def leave(self, room: int) -> None:
        """Let so many bytes be had before reclaim."""
        self._write("zoneinfo", ZONEINFO.format(free=f"{(room + KEPT - CACHE) // PAGE:<12}"))

    def _write(self, name: str, text: str) -> None:
        """Write in place, in one piece and always of the same length: what is mounted is the inode."""
        path = self._directory / name
        path.touch()
        with path.open("r+") as file:
            file.write(text)

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command before a command: that one finds these files in its `/proc`."""
        binds = [f"mount --bind {shlex.quote(str(self._directory / name))} /proc/{name}" for name in NAMES]
        return ("unshare", "--mount", "sh", "-ec", "\n".join([*binds, 'exec "$@"']), "sh")

    def start(self, daemon: Daemon) -> None:
        """Start *daemon* where these files stand in `/proc`."""
        daemon.start(*self.prefix)
