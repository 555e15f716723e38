"""Noticing that the configuration's files have changed, without reading them."""

from __future__ import annotations

import os

from collector.config.load import SYSTEM_PATH, drop_ins
from collector.model.errors import ConfigError

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and mtime of each file that a load would read."""


def stamp(path: str | None) -> Stamp:
    """Return what tells the files at *path* (``None``: the packaged default and its drop-ins) from later ones."""
    try:
        names = drop_ins(path or SYSTEM_PATH)
    except ConfigError:
        names = ()
    return tuple(entry for name in (path, *names) if name is not None and (entry := _entry(name)))


def _entry(name: str) -> tuple[str, int, int, int] | None:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    return name, status.st_ino, status.st_size, status.st_mtime_ns


class Changes:
    """
    Tells whether what was loaded has changed since.

    A file is only told of when it has not changed since the last look: an editor is then done with it.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self.loading()

    def loading(self) -> None:
        """Remember the files as they are; to be called before they are read, so that no change falls in between."""
        self._loaded = self._seen = stamp(self._path)

    def due(self) -> bool:
        """Look, and return whether there is something new to load."""
        now, before = stamp(self._path), self._seen
        self._seen = now
        return now == before and now != self._loaded
