"""Finding the directories that paths and globs lead to, by descriptor, following only root's symlinks."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from collector.host.files import Host, OpenFd
from collector.host.trusted_path import FoundDirectory, Identity, UntrustedSymlinkError, find_directory, readable
from collector.model.errors import StepError

# Names that are looked at between two pauses: 64 take 0.1 ms.
PAUSE_NAMES = 64


class WantedDirectory(NamedTuple):
    """A directory and a descriptor of it with ``O_PATH``, which is closed when the search goes on."""

    path: str
    fd: int


class DirectorySearch:
    """
    One look for directories; *fail* is told which exist and cannot be opened, and why.

    Args:
        paths: Absolute paths or globs; a wildcard does not match a leading dot.
        avoid: Directories in which nothing is looked for.
        fail: Receives a path and the reason.
    """

    def __init__(self, paths: tuple[str, ...], avoid: Container[Identity], fail: Callable[[str, str], None]) -> None:
        self._paths = paths
        self._avoid = avoid
        self._fail = fail

    def __iter__(self) -> Iterator[WantedDirectory | None]:
        """Yield what is found, and ``None`` wherever the search can be paused."""
        for path in self._paths:
            yield from self._below(None, "", "", [part for part in path.split("/") if part])

    def _below(
        self, outer: FoundDirectory | None, path: str, name: str, rest: list[str]
    ) -> Iterator[WantedDirectory | None]:
        """Open the directory *path*, which is *name* in *outer*, and what *rest* leads to in it."""
        yield None
        if (inner := self.find(path, name, below=outer)) is None:
            return
        with OpenFd(inner.fd) as fd:
            if not rest:
                yield WantedDirectory(path or "/", fd)
                return
            for entry in self._names(path, fd, rest[0]) if glob.has_magic(rest[0]) else (rest[0],):
                if entry is None:
                    yield None
                else:
                    yield from self._below(inner, f"{path}/{entry}", entry, rest[1:])

    def find(self, path: str, name: str, *, below: FoundDirectory | None = None) -> FoundDirectory | None:
        """Return the directory *path*, which is *name* below another one, if any."""
        try:
            return find_directory(Host(), name, below=below, avoid=self._avoid)
        except UntrustedSymlinkError as exc:
            self._fail(path, f"{exc}: {exc.hint}")
        except StepError:
            pass  # not a directory, or one to avoid
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.ENOTDIR}:  # not there yet
                self._fail(path, exc.strerror or str(exc))
        return None

    def _names(self, path: str, fd: int, pattern: str) -> Iterator[str | None]:
        """Yield the names of directories and symlinks that match, and ``None`` now and then."""
        match = re.compile(fnmatch.translate(pattern)).match
        try:
            with OpenFd(readable(fd)) as read_fd, os.scandir(read_fd) as entries:
                for number, entry in enumerate(entries):
                    if number % PAUSE_NAMES == 0:
                        yield None
                    hidden = entry.name.startswith(".") and not pattern.startswith(".")
                    if not hidden and match(entry.name) and (entry.is_symlink() or entry.is_dir(follow_symlinks=False)):
                        yield entry.name
        except OSError as exc:
            self._fail(path, exc.strerror or str(exc))
