"""Hard links to cores that are the archive's own: earlier versions kept every core by one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

# Of 500 incidents with seven steps each, looking takes 15 ms; anybody can create files with two links.
AGAIN_S = 2.0


class OwnLinks:
    """
    The links that incidents hold, looked up again for a file that is not among them, at most every 2 s.

    Args:
        archives: Directories whose files are never markers; of each incident, ``STEP/core`` is looked at.
    """

    def __init__(self, archives: tuple[str, ...]) -> None:
        self._archives = archives
        self._links: dict[tuple[int, int], int] = {}
        self._looked_s = -AGAIN_S

    def count(self, info: os.stat_result) -> int:
        """Return how many of a file's links are in the archive."""
        if info.st_nlink < 2:
            return 0
        key = (info.st_dev, info.st_ino)
        if key not in self._links and time.monotonic() - self._looked_s >= AGAIN_S:
            self._links = {}
            for archive in self._archives:
                for link in _links(archive):
                    self._links[link] = self._links.get(link, 0) + 1
            self._looked_s = time.monotonic()
        return self._links.get(key, 0)


def _links(archive: str) -> Iterator[tuple[int, int]]:
    """Yield device and inode of every core that has another name."""
    for incident in _directories(archive):
        for step in _directories(incident):
            try:
                info = os.stat(os.path.join(step, "core"), follow_symlinks=False)
            except OSError:
                continue
            if info.st_nlink > 1:
                yield info.st_dev, info.st_ino


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
