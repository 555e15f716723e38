"""Scans of watched directories: by turns for each owner, so that nobody's million files delay another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from collector.triggers.directory import Directory, FileEvent

# Entries of a scan that one call handles: 256 files that are opened and judged take 5 ms.
BATCH = 256


class Scans:
    """
    Scans that are due; each owner of directories has one under way at most, which holds a descriptor.

    Args:
        begin: Starts the scan of a directory; yields ``None`` wherever it can be paused.
    """

    def __init__(self, begin: Callable[[Directory], Iterator[FileEvent | None]]) -> None:
        self._begin = begin
        self._due: dict[str, dict[Directory, None]] = {}
        self._under_way: dict[str, Iterator[FileEvent | None]] = {}

    def add(self, directory: Directory) -> None:
        """
        Scan a directory; if that is under way, once more after it.

        If it began again, somebody who goes on to change things could keep it from ever coming to its end.
        """
        self._due.setdefault(directory.owner, {})[directory] = None

    def discard(self, directory: Directory) -> None:
        self._due.get(directory.owner, {}).pop(directory, None)

    def batch(self) -> Iterator[FileEvent | None]:
        """Yield a batch of the owner whose turn it is."""
        if not self._due:
            return
        owner = next(iter(self._due))
        due = self._due[owner] = self._due.pop(owner)  # the last one from now on
        for _ in range(BATCH):
            if owner not in self._under_way:
                if not due:
                    del self._due[owner]
                    return
                directory = next(iter(due))
                del due[directory]
                self._under_way[owner] = self._begin(directory)
            try:
                yield next(self._under_way[owner])
            except StopIteration:
                del self._under_way[owner]
                yield None

    def __bool__(self) -> bool:
        return bool(self._due)
