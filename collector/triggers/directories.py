"""Directories in which files appear: watched while they exist, found again when they come back."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import os
import re
import select
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from collector.host import inotify
from collector.model.bounded import put_newest
from collector.model.errors import CollectorError
from collector.triggers.base import TriggerContext, Watch

# Entries of a catch-up scan that one call handles: 256 lstat and open take 3 ms.
SCAN_BATCH = 256
# A tree planted to eat all of fs.inotify.max_user_watches (8,192 on small machines) stops here.
MAX_DIRECTORIES = 1024


class FileEvent(NamedTuple):
    """
    A name that appeared in a directory.

    *closed*: a writer closed it, or it was renamed into place; otherwise it was created, or found
    by a scan, and may still be open for writing.
    """

    directory: Directory
    name: str
    closed: bool
    scanned: bool = False


@dataclass(slots=True, eq=False)
class Directory:
    """A watched directory; device and inode tell it from another one that takes its path later."""

    path: str
    device: int
    inode: int
    depth: int
    wd: int = -1

    def open(self) -> int:
        """Return a descriptor to resolve names against; raise `FileNotFoundError` if another one has its path now."""
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) != (self.device, self.inode):
            os.close(fd)
            raise FileNotFoundError(f"{self.path!r} is no longer the directory that was watched")
        return fd


class DirectoryWatch(Watch):
    """
    A watch on directories given by paths or globs.

    Args:
        ctx: The trigger's; the directories that it ignores are never entered.
        paths: Absolute paths or globs; they need not exist yet.
        match: Globs of file names.
        exclude: Globs of file names to ignore even if they match.
        depth: Number of levels below that are watched as well.

    Raises:
        CollectorError: If no inotify instance is left.
    """

    poll_s = 2.0

    def __init__(
        self,
        ctx: TriggerContext,
        *,
        paths: tuple[str, ...],
        match: tuple[str, ...],
        exclude: tuple[str, ...],
        depth: int,
    ) -> None:
        self.ctx = ctx
        self._paths = tuple(map(ctx.host.path, paths))
        self._ignore = tuple(map(os.path.realpath, ctx.ignore))
        self._match = re.compile("|".join(map(fnmatch.translate, match)) or r"(?!)")
        self._exclude = re.compile("|".join(map(fnmatch.translate, exclude)) or r"(?!)")
        self._depth = depth
        self._overflows = 0
        self._problem: str | None = None
        self._gone: str | None = None
        self._unwatched: dict[str, tuple[int, Directory | None]] = {}
        """Subdirectories that could not be watched, with their depth and parent; tried again."""
        self._by_wd: dict[int, Directory] = {}
        self._known: set[tuple[int, int]] = set()
        self._scans: deque[Iterator[FileEvent]] = deque()
        try:
            self._inotify = inotify.Inotify()
        except OSError as exc:
            hint = "raise fs.inotify.max_user_instances"
            raise CollectorError(f"trigger {ctx.id}: inotify: {exc.strerror}", hint=hint) from exc
        try:
            self._more = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            self._inotify.close()
            raise
        try:
            self._epoll = select.epoll()
        except OSError:
            os.close(self._more)
            self._inotify.close()
            raise
        self._epoll.register(self._inotify.fileno(), select.EPOLLIN)
        self._epoll.register(self._more, select.EPOLLIN)

    @property
    def lost(self) -> int:
        """Overflows of the kernel's queue; the scan that follows misses only files that came and went."""
        return self._overflows

    @property
    def degraded(self) -> str | None:
        """Why a directory that exists is not watched."""
        return self._problem

    @property
    def gone(self) -> str | None:
        """Why the inotify instance is of no use any more."""
        return self._gone

    def fileno(self) -> int:
        """Return a descriptor that is readable while events or unfinished scans are pending."""
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()
        os.close(self._more)
        self._inotify.close()

    def directories(self) -> Iterable[Directory]:
        """Return the directories that are watched now."""
        return self._by_wd.values()

    def events(self) -> Iterator[FileEvent]:
        """Yield the events of one bounded read and of one batch of a scan."""
        for event in self._inotify.read():
            yield from self._handle(event)
        yield from self._scan()

    def refresh(self) -> None:
        """Find directories that appeared, went or were replaced; new ones are scanned at the next call of `events`."""
        self._problem = None
        for directory in list(self._by_wd.values()):
            try:
                os.close(directory.open())
            except OSError:
                self._forget(directory)
        self._known = {(one.device, one.inode) for one in self._by_wd.values()}
        unwatched, self._unwatched = self._unwatched, {}
        for path, (depth, parent) in unwatched.items():
            self._watch(path, depth=depth, inside=parent)
        for pattern in self._paths:
            for path in glob.iglob(pattern) if glob.has_magic(pattern) else (pattern,):
                self._watch(path, depth=self._depth)
        self._signal()

    def _handle(self, event: inotify.InotifyEvent) -> Iterator[FileEvent]:
        """Turn one inotify event into file events; keep the watches up to date."""
        if event.mask & inotify.OVERFLOW:
            self._overflows += 1
            self._scans.clear()  # each starts again: what it has passed may have changed unnoticed
            self._scans.extend(self._entries(directory) for directory in self._by_wd.values())
            return
        directory = self._by_wd.get(event.wd)
        if directory is None:
            return
        if event.mask & inotify.GONE:
            self._forget(directory)
            self.refresh()
        elif event.mask & inotify.ISDIR:
            self._enter(directory, event.name)
        elif event.name.startswith("#") or self._is_wanted(event.name):
            # An unnamed file (O_TMPFILE) is closed under "#INODE", whatever name it was linked to.
            yield FileEvent(directory, event.name, closed=not event.mask & inotify.CREATE)

    def _enter(self, parent: Directory, name: str) -> None:
        """Watch a subdirectory, within the depth; one that abrt is still filling ends in ``.new``."""
        if parent.depth > 0 and not name.endswith(".new"):
            self._watch(os.path.join(parent.path, name), depth=parent.depth - 1, inside=parent)

    def _watch(self, path: str, *, depth: int, inside: Directory | None = None) -> None:
        """Watch *path* if it is a directory, and scan it if it is not watched yet."""
        if inside is not None and len(self._by_wd) >= MAX_DIRECTORIES:
            self._fail(path, depth, inside, _too_many())
            return
        if self._ignored(path):
            return
        try:
            # A configured path may be a symlink; a subdirectory, which others create, may not.
            nofollow = os.O_NOFOLLOW if inside is not None else 0
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | nofollow)
        except (FileNotFoundError, NotADirectoryError):
            return  # not there yet
        except OSError as exc:
            if inside is None or exc.errno != errno.ELOOP:
                self._fail(path, depth, inside, exc)
            return
        try:
            info = os.fstat(fd)
            if len(self._by_wd) >= MAX_DIRECTORIES and (info.st_dev, info.st_ino) not in self._known:
                raise _too_many()
            wd = self._inotify.add(fd)
        except OSError as exc:
            self._fail(path, depth, inside, exc)
            return
        finally:
            os.close(fd)
        if wd not in self._by_wd:
            directory = Directory(path, info.st_dev, info.st_ino, depth, wd)
            self._by_wd[wd] = directory
            self._scans.append(self._entries(directory))
            self._signal()

    def _fail(self, path: str, depth: int, inside: Directory | None, exc: OSError) -> None:
        """Say why a directory is not watched; `refresh` tries again."""
        if exc.errno in {errno.EBADF, errno.EINVAL}:
            self._gone = f"inotify: {exc.strerror}"
        self._problem = self._problem or f"{path}: {exc.strerror}"
        if inside is not None:
            put_newest(self._unwatched, path, (depth, inside), MAX_DIRECTORIES)

    def _forget(self, directory: Directory) -> None:
        """Stop watching a directory that is no longer at its path."""
        if self._by_wd.pop(directory.wd, None) is not None:
            self._inotify.remove(directory.wd)

    def _is_wanted(self, name: str) -> bool:
        return bool(self._match.match(name)) and not self._exclude.match(name)

    def _ignored(self, path: str) -> bool:
        """Return whether *path* is inside an ignored directory, by name or through a symlink."""
        names = {os.path.abspath(path), os.path.realpath(path)}
        return any(
            name == other or name.startswith(other.rstrip("/") + "/") for name in names for other in self._ignore
        )

    def _entries(self, directory: Directory) -> Iterator[FileEvent]:
        """Yield the files in a directory; subdirectories are entered on the way."""
        try:
            with os.scandir(directory.path) as entries:
                for entry in entries:
                    if directory.depth > 0 and entry.is_dir(follow_symlinks=False):
                        self._enter(directory, entry.name)
                    elif self._is_wanted(entry.name):
                        yield FileEvent(directory, entry.name, closed=False, scanned=True)
        except (FileNotFoundError, NotADirectoryError):
            return  # it is gone; its event is still to come
        except OSError as exc:  # scanned again once it can be read
            self._forget(directory)
            self._fail(directory.path, directory.depth, directory if directory.depth < self._depth else None, exc)

    def _scan(self) -> Iterator[FileEvent]:
        """Yield the next batch of the scans that are due."""
        left = SCAN_BATCH
        while self._scans and left:
            event = next(self._scans[0], None)
            if event is None:
                self._scans.popleft()
            else:
                left -= 1
                yield event
        self._signal()

    def _signal(self) -> None:
        """Make the descriptor readable while scans are pending, and only then."""
        if self._scans:
            os.eventfd_write(self._more, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._more)


def check_absolute(paths: tuple[str, ...]) -> None:
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is not an absolute path")


def _too_many() -> OSError:
    return OSError(errno.ENOSPC, f"{MAX_DIRECTORIES} directories are watched already")
