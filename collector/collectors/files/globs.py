"""Globs over files that anybody may have planted: by directory descriptor, following no symlink."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from collector.host.files import DIRECTORY_FLAGS, Host, OpenFd, kind_of, open_beneath
from collector.host.read_errors import ReadErrors
from collector.host.trusted_path import open_directory
from collector.model.errors import StepError

MAX_DEPTH = 16
WILD = frozenset("*?[")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A regular file that a glob found: *name* below the directory *root*, with its status."""

    root: str
    name: str
    status: os.stat_result

    @property
    def path(self) -> str:
        return f"{self.root.rstrip('/')}/{self.name}"


def expand(host: Host, glob: str, unread: ReadErrors) -> Iterator[Found]:
    """
    Yield the regular files that match *glob*, in directory order.

    The components before the first wildcard are the root. Below it no symlink is followed, and matches that are not
    regular files are recorded in *unread*. ``**`` stands for any number of directories.
    """
    parts = [part for part in glob.split("/") if part]
    wild = next((index for index, part in enumerate(parts) if WILD & set(part)), len(parts) - 1)
    root, patterns = "/" + "/".join(parts[:wild]), parts[wild:]
    try:
        fd = open_directory(host, root)
    except (OSError, StepError) as exc:
        unread.add(root, exc)
        return
    with OpenFd(fd):
        walk = _Walk(root=root.rstrip("/"), unread=unread)
        for name, status in walk.match(fd, "", patterns):
            yield Found(root=root, name=name, status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    root: str
    unread: ReadErrors

    def match(self, directory_fd: int, prefix: str, patterns: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the matching files below a directory, whose own path below the root is *prefix*."""
        pattern, *rest = patterns
        if pattern == "**" and rest:
            yield from self.match(directory_fd, prefix, rest)
        for name in _names(directory_fd, pattern):
            try:
                status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
                if rest:
                    inner_patterns = patterns if pattern == "**" else rest
                    yield from self._descend(directory_fd, prefix, name, status, inner_patterns)
                elif stat.S_ISREG(status.st_mode):
                    yield prefix + name, status
                elif pattern != "**":
                    self.unread.add(f"{self.root}/{prefix}{name}", f"a {kind_of(status.st_mode)}, not a regular file")
            except OSError as exc:
                self.unread.add(f"{self.root}/{prefix}{name}", exc)

    def _descend(
        self, directory_fd: int, prefix: str, name: str, status: os.stat_result, patterns: list[str]
    ) -> Iterator[tuple[str, os.stat_result]]:
        if not stat.S_ISDIR(status.st_mode):
            return
        if prefix.count("/") >= MAX_DEPTH:
            self.unread.add(f"{self.root}/{prefix}{name}", f"more than {MAX_DEPTH} directories deep")
            return
        with OpenFd(os.open(name, DIRECTORY_FLAGS, dir_fd=directory_fd)) as inner:
            yield from self.match(inner, f"{prefix}{name}/", patterns)


def _names(directory_fd: int, pattern: str) -> Iterator[str]:
    """Yield the names that match; hidden ones only if the pattern begins with a dot too."""
    if not WILD & set(pattern):
        yield pattern
        return
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not pattern.startswith(".")
            if not hidden and (pattern == "**" or fnmatchcase(entry.name, pattern)):
                yield entry.name


def open_found(host: Host, found: Found) -> int:
    """Open a file that `expand` found; raise `StepError` if another file has its name now."""
    with OpenFd(open_directory(host, found.root)) as root_fd:
        fd = open_beneath(root_fd, found.name)
    if not os.path.samestat(os.fstat(fd), found.status):
        os.close(fd)
        raise StepError(f"{found.path!r} was replaced while it was opened")
    return fd
