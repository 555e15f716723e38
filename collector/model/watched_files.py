"""Which files a trigger that watches directories takes, told from its options and a file's path alone."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import msgspec


class WatchedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """
    The directories and names that a trigger watches.

    Args:
        paths: Absolute paths of directories, or globs; ``*`` does not go beyond a ``/``.
        match: Globs of file names.
        exclude: Globs of file names to ignore even if they match.
        depth: Number of levels below *paths* that are watched as well.
    """

    paths: tuple[str, ...]
    match: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    depth: int = 0

    def covers(self, path: str) -> bool:
        """Return whether the file at *path* is taken."""
        where = PurePosixPath(path)
        return self.takes(where.name) and self.reaches(str(where.parent))

    def takes(self, name: str) -> bool:
        """Return whether a file called *name* is taken where it is watched."""
        return any(fnmatchcase(name, glob) for glob in self.match) and self.excluded_by(name) is None

    def excluded_by(self, name: str) -> str | None:
        """Return the glob by which *name* is ignored."""
        return next((glob for glob in self.exclude if fnmatchcase(name, glob)), None)

    def reaches(self, directory: str) -> bool:
        """Return whether *directory* is watched."""
        parts = PurePosixPath(directory).parts
        for path in self.paths:
            globs = PurePosixPath(path).parts
            if 0 <= len(parts) - len(globs) <= self.depth and all(map(fnmatchcase, parts, globs)):
                return True
        return False
