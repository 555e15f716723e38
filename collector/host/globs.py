"""Globs over files that anybody may have planted: walked by directory descriptor, nothing followed."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from collector.host.files import DIRECTORY_FLAGS, Host, kind_of, open_beneath
from collector.host.read_errors import Unreads
from collector.model.errors import StepError

MAX_DEPTH = 16
MAX_SYMLINKS = 40
WILD = frozenset("*?[")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A regular file that a glob found: *name* below the directory *root*, and what it was then."""

    root: str
    name: str
    status: os.stat_result

    @property
    def path(self) -> str:
        """The file's path."""
        return f"{self.root.rstrip('/')}/{self.name}"


def open_directory(host: Host, path: str) -> int:
    """
    Open a directory whose path the configuration names.

    Of the symlinks on the way those of root, or of the collector's own user, are followed
    (``/var/run``, a log directory that was moved); anybody else's are not.

    Raises:
        StepError: If somebody else's symlink stands on the way.
        OSError: As open(2) gives it.
    """
    current = os.open(host.path("/"), DIRECTORY_FLAGS)
    todo = deque(part for part in path.split("/") if part)
    symlinks = 0
    try:
        while todo:
            name = todo.popleft()
            try:
                inner = os.open(name, DIRECTORY_FLAGS, dir_fd=current)
            except OSError as exc:
                if exc.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
                symlinks += 1
                target = _trusted_target(current, name, path, symlinks)
                todo.extendleft(part for part in reversed(target.split("/")) if part)
                inner = os.open(host.path("/"), DIRECTORY_FLAGS) if target.startswith("/") else os.dup(current)
            os.close(current)
            current = inner
    except BaseException:
        os.close(current)
        raise
    return current


def _trusted_target(directory_fd: int, name: str, path: str, symlinks: int) -> str:
    """Return where a symlink points; one descriptor answers both whose it is and where it points."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            raise StepError(f"{path!r}: {name!r} is a {kind_of(status.st_mode)}, not a directory")
        if status.st_uid not in {0, os.geteuid()}:
            raise StepError(f"{path!r}: {name!r} is a symlink of user {status.st_uid}, which is not followed")
        if symlinks > MAX_SYMLINKS:
            raise StepError(f"{path!r}: more than {MAX_SYMLINKS} symlinks")
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


def expand(host: Host, glob: str, unread: Unreads) -> Iterator[Found]:
    """
    Yield the regular files that *glob* names, in the order of the directories.

    The components before the first wildcard are the root; below it no symlink is followed, and what
    is not a regular file is recorded. ``**`` stands for any number of directories.
    """
    parts = [part for part in glob.split("/") if part]
    wild = next((index for index, part in enumerate(parts) if WILD & set(part)), len(parts) - 1)
    root, patterns = "/" + "/".join(parts[:wild]), parts[wild:]
    try:
        fd = open_directory(host, root)
    except (OSError, StepError) as exc:
        unread.add(root, exc)
        return
    try:
        walk = _Walk(root=root.rstrip("/"), unread=unread)
        for name, status in walk.match(fd, "", patterns):
            yield Found(root=root, name=name, status=status)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    root: str
    unread: Unreads

    def match(self, directory_fd: int, prefix: str, patterns: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the files below a directory, whose own name is *prefix*, that *patterns* name."""
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
        inner = os.open(name, DIRECTORY_FLAGS, dir_fd=directory_fd)
        try:
            yield from self.match(inner, f"{prefix}{name}/", patterns)
        finally:
            os.close(inner)


def _names(directory_fd: int, pattern: str) -> Iterator[str]:
    """Yield the names that match; those that begin with a dot only if the pattern does too."""
    if not WILD & set(pattern):
        yield pattern
        return
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not pattern.startswith(".")
            if not hidden and (pattern == "**" or fnmatchcase(entry.name, pattern)):
                yield entry.name


def open_found(host: Host, found: Found) -> int:
    """
    Open a file that `expand` found, if it still is that file.

    Raises:
        StepError: If another file has its name now.
        OSError: As open(2) gives it.
    """
    root_fd = open_directory(host, found.root)
    try:
        fd = open_beneath(root_fd, found.name)
    finally:
        os.close(root_fd)
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino) != (found.status.st_dev, found.status.st_ino):
        os.close(fd)
        raise StepError(f"{found.path!r} was replaced while it was opened")
    return fd
