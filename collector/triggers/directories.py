"""Directories in which files appear: watched while they stand, found again when they come back."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import re
import select
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from collector.host import inotify
from collector.model.errors import CollectorError
from collector.triggers.base import TriggerContext

# Entries of a catch-up scan that one call handles: 256 lstat and open take 3 ms.
SCAN_BATCH = 256
# A tree planted to eat all of fs.inotify.max_user_watches (8,192 on small machines) stops here.
MAX_DIRECTORIES = 1024


class FileEvent(NamedTuple):
    """
    A name that appeared in a directory.

    *closed*: a writer closed it, or it was renamed into place; otherwise it was created, or stood
    there when the directory was scanned, and somebody may still be writing to it.
    """

    directory: Directory
    name: str
    closed: bool
    scanned: bool = False


@dataclass(slots=True, eq=False)
class Directory:
    """A watched directory; device and inode pin it against whatever takes its path later."""

    path: str
    device: int
    inode: int
    depth: int
    wd: int = -1

    def open(self) -> int:
        """
        Return a descriptor of it that names can be resolved against.

        Raises:
            FileNotFoundError: If its path leads to something else by now.
        """
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) != (self.device, self.inode):
            os.close(fd)
            raise FileNotFoundError(f"{self.path!r} is no longer the directory that was watched")
        return fd


@dataclass(slots=True)
class DirectoryWatch:
    """
    Watches on directories given by paths or globs.

    Args:
        paths: Absolute paths or globs; they need not exist yet.
        depth: How many levels below them to watch as well.
        ignore: Directories that are never entered.
        wanted: Whether a name is worth a sighting.
    """

    paths: tuple[str, ...]
    depth: int
    ignore: tuple[str, ...]
    wanted: Callable[[str], bool]
    overflows: int = 0
    refused: str | None = None
    """Why a directory could not be watched; ``None`` when all that exist are."""
    _inotify: inotify.Inotify = field(default_factory=inotify.Inotify)
    _more: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    _epoll: select.epoll = field(default_factory=select.epoll)
    _by_wd: dict[int, Directory] = field(default_factory=dict)
    _scans: deque[Iterator[FileEvent]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._epoll.register(self._inotify.fileno(), select.EPOLLIN)
        self._epoll.register(self._more, select.EPOLLIN)

    def fileno(self) -> int:
        """Return one descriptor that is readable while events or unfinished scans wait."""
        return self._epoll.fileno()

    def read(self) -> Iterator[FileEvent]:
        """Yield what one bounded read of events and one piece of a scan give."""
        for event in self._inotify.read():
            yield from self._handle(event)
        yield from self._scan()

    def refresh(self) -> None:
        """Find directories that appeared, went or were replaced; what is new is scanned at the next `read`."""
        self.refused = None
        for directory in list(self._by_wd.values()):
            try:
                os.close(directory.open())
            except OSError:
                self._forget(directory)
        for path in self._expand():
            self._watch(path, depth=self.depth)
        self._signal()

    def close(self) -> None:
        """Release all descriptors."""
        self._epoll.close()
        self._inotify.close()
        os.close(self._more)

    def _expand(self) -> Iterator[str]:
        """Yield the directories that the configured paths mean now."""
        for path in self.paths:
            yield from glob.iglob(path) if glob.has_magic(path) else (path,)

    def _handle(self, event: inotify.InotifyEvent) -> Iterator[FileEvent]:
        """Turn one event into sightings; keep the watches true."""
        if event.mask & inotify.OVERFLOW:
            self.overflows += 1
            self._scans.clear()  # each is begun anew: what it has passed may have changed unseen
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
        elif event.name.startswith("#") or self.wanted(event.name):
            # An unnamed file (O_TMPFILE) is closed under "#INODE", whatever name it was linked to.
            yield FileEvent(directory, event.name, closed=not event.mask & inotify.CREATE)

    def _enter(self, parent: Directory, name: str) -> None:
        """Watch a subdirectory, where asked; one that abrt still fills carries ``.new``."""
        if parent.depth > 0 and not name.endswith(".new"):
            self._watch(os.path.join(parent.path, name), depth=parent.depth - 1, inside=parent)

    def _watch(self, path: str, *, depth: int, inside: Directory | None = None) -> None:
        """Watch *path* if it is a directory, and scan it if it is not watched yet."""
        if self._ignored(path) or len(self._by_wd) >= MAX_DIRECTORIES:
            return
        try:
            # Whoever configured a path may have meant a symlink; whoever made a subdirectory may not.
            nofollow = os.O_NOFOLLOW if inside is not None else 0
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | nofollow)
        except OSError:
            return  # not there yet
        try:
            info = os.fstat(fd)
            wd = self._inotify.add(fd)
        except OSError as exc:
            self.refused = f"{path}: {exc.strerror}"
            return
        finally:
            os.close(fd)
        if wd not in self._by_wd:
            directory = Directory(path, info.st_dev, info.st_ino, depth, wd)
            self._by_wd[wd] = directory
            self._scans.append(self._entries(directory))
            self._signal()

    def _forget(self, directory: Directory) -> None:
        """End the watch on a directory that is no longer at its path."""
        if self._by_wd.pop(directory.wd, None) is not None:
            self._inotify.remove(directory.wd)

    def _ignored(self, path: str) -> bool:
        """Return whether *path* is inside an ignored directory, by name or through a symlink."""
        names = {os.path.abspath(path), os.path.realpath(path)}
        return any(name == other or name.startswith(other.rstrip("/") + "/") for name in names for other in self.ignore)

    def _entries(self, directory: Directory) -> Iterator[FileEvent]:
        """Yield what stands in a directory; subdirectories are entered on the way."""
        try:
            with os.scandir(directory.path) as entries:
                for entry in entries:
                    if directory.depth > 0 and entry.is_dir(follow_symlinks=False):
                        self._enter(directory, entry.name)
                    elif self.wanted(entry.name):
                        yield FileEvent(directory, entry.name, closed=False, scanned=True)
        except OSError:
            return  # it went meanwhile; its event is on the way

    def _scan(self) -> Iterator[FileEvent]:
        """Yield the next piece of the scans that are due."""
        left = SCAN_BATCH
        while self._scans and left:
            sighting = next(self._scans[0], None)
            if sighting is None:
                self._scans.popleft()
            else:
                left -= 1
                yield sighting
        self._signal()

    def _signal(self) -> None:
        """Make the descriptor readable while scans wait, and only then."""
        if self._scans:
            os.eventfd_write(self._more, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._more)


def open_directories(
    ctx: TriggerContext, *, paths: tuple[str, ...], match: tuple[str, ...], exclude: tuple[str, ...], depth: int
) -> DirectoryWatch:
    """
    Watch directories for the names that a trigger wants.

    Args:
        ctx: The trigger's; what it ignores is never watched.
        paths: Directories, or globs of directories.
        match: Globs of file names.
        exclude: Globs of file names that are none after all.
        depth: Levels below that are watched as well.

    Raises:
        CollectorError: If inotify has no instance left.
    """
    matching = re.compile("|".join(map(fnmatch.translate, match)) or r"(?!)")
    excluded = re.compile("|".join(map(fnmatch.translate, exclude)) or r"(?!)")
    try:
        return DirectoryWatch(
            paths=tuple(map(ctx.host.path, paths)),
            depth=depth,
            ignore=tuple(map(os.path.realpath, ctx.ignore)),
            wanted=lambda name: bool(matching.match(name)) and not excluded.match(name),
        )
    except OSError as exc:
        hint = "raise fs.inotify.max_user_instances"
        raise CollectorError(f"trigger {ctx.id}: inotify: {exc.strerror}", hint=hint) from exc
