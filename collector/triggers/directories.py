"""Directories in which files appear: watched while they exist, found again when they come back."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import select
import time
from collections.abc import Iterable, Iterator

from collector.host import inotify_events
from collector.host.files import OpenFd
from collector.host.trusted_path import Identity, readable
from collector.model.errors import CollectorError
from collector.model.text import printable
from collector.model.watched_files import WatchedFiles
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.directory import Directory, FileEvent
from collector.triggers.directory_search import PAUSE_NAMES, DirectorySearch
from collector.triggers.directory_table import DirectoryTable
from collector.triggers.scans import Scans

POLL_S = 2.0
# Somebody may plant a million names for a glob: looking takes at most a tenth of the time, unless that is too seldom.
SHARE_OF_TIME = 0.1
MAX_POLL_S = 60.0
MAX_PROBLEMS = 16
SHOWN_PROBLEMS = 3


class DirectoryWatch(Watch):
    """
    A watch on directories given by paths or globs.

    Args:
        ctx: The trigger's; the directories that it ignores are never entered.
        files: The directories, which need not exist yet, and the names of files.

    Raises:
        CollectorError: If no inotify instance is left.
    """

    def __init__(self, ctx: TriggerContext, files: WatchedFiles) -> None:
        self.ctx = ctx
        self._paths = tuple(map(ctx.host.path, files.paths))
        self._match = re.compile("|".join(map(fnmatch.translate, files.match)) or r"(?!)")
        self._exclude = re.compile("|".join(map(fnmatch.translate, files.exclude)) or r"(?!)")
        self._depth = files.depth
        self._overflows = 0
        self._search_s = 0.0
        self._problems: dict[str, str] = {}
        """Why directories that exist are not watched, by path."""
        self._degraded: str | None = None
        self._gone: str | None = None
        from collector.host.inotify import Inotify  # noqa: PLC0415 - `inotify_events` says why

        try:
            self._inotify = Inotify()
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
        self._table = DirectoryTable(self._inotify)
        self._scans = Scans(self._entries)

    @property
    def poll_s(self) -> float:
        """Interval of looking for directories; longer if there are very many names to look at."""
        return max(POLL_S, min(MAX_POLL_S, self._search_s / SHARE_OF_TIME))

    @property
    def lost(self) -> int:
        """Overflows of the kernel's queue; the scan that follows misses only files that came and went."""
        return self._overflows

    @property
    def degraded(self) -> str | None:
        """Why directories that exist are not watched."""
        return self._degraded

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
        return self._table

    def events(self) -> Iterator[FileEvent | None]:
        """Yield the events of one bounded read and of one batch of a scan, ``None`` for what is none of a file's."""
        for event in self._inotify.read():
            yield self._handle(event)
        yield from self._scans.batch()
        self._signal()
        self._degraded = self._describe()

    def refresh(self) -> Iterator[None]:
        """Find directories that appeared, went or were replaced; new ones are scanned at the next call of `events`."""
        started_s = time.monotonic()
        self._problems = {}
        avoided = self._avoided()
        for directory in list(self._table):
            yield None
            try:
                os.close(directory.find(avoided).fd)
            except OSError:
                self._forget(directory)
        for inside, name in self._table.take_waiting():
            yield None
            self._enter(inside, name)
        for found in DirectorySearch(self._paths, avoided, self._fail):
            if found is not None:
                self._watch(found.path, found.fd, depth=self._depth)
            yield None
        self._signal()
        self._search_s = time.monotonic() - started_s
        self._degraded = self._describe()

    def _is_wanted(self, name: str) -> bool:
        return bool(self._match.match(name)) and not self._exclude.match(name)

    def _avoided(self) -> frozenset[Identity]:
        """Return the directories that are ignored, as far as they exist."""
        found = set()
        for path in self.ctx.ignore:
            with contextlib.suppress(OSError):
                info = os.stat(path)
                found.add((info.st_dev, info.st_ino))
        return frozenset(found)

    def _describe(self) -> str | None:
        """Return why directories are not watched, those first that the configuration names without a wildcard."""
        paths = sorted(self._problems, key=lambda path: path not in self._paths)
        problems = [f"{printable(path)}: {self._problems[path]}" for path in paths]
        if self._table.problem is not None:
            problems.insert(0, self._table.problem)
        if len(problems) > SHOWN_PROBLEMS:
            problems[SHOWN_PROBLEMS:] = ["and more"]
        return "; ".join(problems) or None

    def _handle(self, event: inotify_events.InotifyEvent) -> FileEvent | None:
        """Turn one inotify event into one of a file; keep the watches up to date."""
        if event.mask & inotify_events.OVERFLOW:
            self._overflows += 1
            for one in self._table:
                self._scans.add(one)
            return None
        if (directory := self._table.by_wd(event.wd)) is None:
            return None
        if event.mask & inotify_events.GONE:
            self._forget(directory)
            self._look_again(directory)
        elif event.mask & inotify_events.ISDIR:
            self._enter(directory, event.name)
        elif event.name.startswith("#") or self._is_wanted(event.name):
            # An unnamed file (O_TMPFILE) is closed under "#INODE", whatever name it was linked to.
            return FileEvent(directory, event.name, closed=not event.mask & inotify_events.CREATE)
        return None

    def _look_again(self, directory: Directory) -> None:
        """Watch what has taken the path of a directory that is gone; one inside another comes by an event."""
        if directory.inside is None:
            search = DirectorySearch((), self._avoided(), self._fail)
            if (found := search.find(directory.path, directory.path)) is not None:
                with OpenFd(found.fd) as fd:
                    self._watch(directory.path, fd, depth=self._depth)

    def _enter(self, inside: Directory, name: str) -> None:
        """Watch a subdirectory, within the depth; one that abrt is still filling ends in ``.new``."""
        if inside.depth == 0 or name.endswith(".new"):
            return
        path = os.path.join(inside.path, name)
        try:
            found = inside.find_below(name, self._avoided())
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                self._fail(path, exc.strerror or str(exc))
                self._table.wait(inside, name, inside.owner)
            return
        with OpenFd(found.fd) as fd:
            self._watch(path, fd, depth=inside.depth - 1, inside=inside)

    def _watch(self, path: str, fd: int, *, depth: int, inside: Directory | None = None) -> None:
        """Watch the directory that *fd* is of, and scan it, if it is not watched yet."""
        info = os.fstat(fd)
        directory = Directory(path, (info.st_dev, info.st_ino), self.ctx.owners.of(info.st_uid), depth, inside)
        if directory.identity in self._avoided():
            return
        try:
            if self._table.add(directory, fd):
                self._scans.add(directory)
                self._signal()
        except OSError as exc:
            if exc.errno in {errno.EBADF, errno.EINVAL}:
                self._gone = f"inotify: {exc.strerror}"
            self._fail(path, exc.strerror or str(exc))
            if inside is not None:
                self._table.wait(inside, directory.name, directory.owner)

    def _fail(self, path: str, why: str) -> None:
        """Say why a directory is not watched; `refresh` tries again."""
        if path in self._problems or len(self._problems) < MAX_PROBLEMS or path in self._paths:
            self._problems[path] = why

    def _forget(self, directory: Directory) -> None:
        """Stop watching a directory that is no longer at its path."""
        self._table.forget(directory)
        self._scans.discard(directory)

    def _entries(self, directory: Directory) -> Iterator[FileEvent | None]:
        """Yield the files in a directory; subdirectories are entered on the way."""
        try:
            with OpenFd(directory.find().fd) as fd, OpenFd(readable(fd)) as read_fd, os.scandir(read_fd) as entries:
                for number, entry in enumerate(entries):
                    if directory.depth > 0 and entry.is_dir(follow_symlinks=False):
                        self._enter(directory, entry.name)
                    elif self._is_wanted(entry.name):
                        yield FileEvent(directory, entry.name, closed=False, scanned=True)
                    if number % PAUSE_NAMES == 0:
                        yield None
        except (FileNotFoundError, NotADirectoryError):
            return  # it is gone; its event is still to come
        except OSError as exc:  # scanned again once it can be read
            self._forget(directory)
            self._fail(directory.path, exc.strerror or str(exc))
            if directory.inside is not None:
                self._table.wait(directory.inside, directory.name, directory.owner)

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
