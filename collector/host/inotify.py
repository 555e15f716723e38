"""
Directory events: the one module that imports pyinotify.

pyinotify 0.9.6 keeps the watches and decodes events. Four of its habits do not fit a daemon that must
survive hostile file names, and are overridden here; its last release is of 2015, so that the private
names underneath no longer move:

- one name that is not UTF-8 makes ``read_events`` raise and lose everything it had read;
- ``read_events`` reads all that is queued at once, megabytes where the queue is long;
- making a `WatchManager` runs ``ldconfig`` in a child process to find libc;
- its descriptor blocks and is inherited by children.
"""

from __future__ import annotations

import ctypes
import os
import struct
import warnings
from typing import Any, NamedTuple

with warnings.catch_warnings():  # it imports asyncore, which Python 3.11 announces to be going
    warnings.simplefilter("ignore", DeprecationWarning)
    import pyinotify

CLOSE_WRITE: int = pyinotify.IN_CLOSE_WRITE
MOVED_TO: int = pyinotify.IN_MOVED_TO
CREATE: int = pyinotify.IN_CREATE
ISDIR: int = pyinotify.IN_ISDIR
OVERFLOW: int = pyinotify.IN_Q_OVERFLOW
GONE: int = pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF | pyinotify.IN_UNMOUNT | pyinotify.IN_IGNORED
"""The watched directory is no longer at its path."""
DIRECTORY_MASK: int = (
    CLOSE_WRITE | MOVED_TO | CREATE | pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF | pyinotify.IN_ONLYDIR
)

# One read gives at least 240 events (a name of NAME_MAX) and at most 4,096.
READ_BYTES = 65_536
_HEADER = struct.Struct("iIII")

pyinotify.log.handlers.clear()  # it prints to stderr on its own
pyinotify.log.disabled = True


class Event(NamedTuple):
    """One event; *name* is relative to the watched directory, empty where the event is about itself."""

    wd: int
    mask: int
    name: str


class _Libc(pyinotify._CtypesLibcINotifyWrapper):  # type: ignore[misc]  # pyinotify has no types
    """The system calls: non-blocking, close-on-exec, with names as the bytes that they are."""

    def init(self) -> bool:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._get_errno_func = ctypes.get_errno
        self._libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
        return True

    def _inotify_init(self) -> int:
        return int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def _inotify_add_watch(self, fd: int, pathname: str, mask: int) -> int:
        return int(self._libc.inotify_add_watch(fd, os.fsencode(pathname), mask))


class _WatchManager(pyinotify.WatchManager):  # type: ignore[misc]
    """As `pyinotify.WatchManager`, over `_Libc`."""

    def __init__(self) -> None:
        self._ignore_events = False
        self._exclude_filter = lambda _path: False
        self._wmd: dict[int, Any] = {}
        self._inotify_wrapper = _Libc()
        self._inotify_wrapper.init()
        self._fd = self._inotify_wrapper.inotify_init()
        if self._fd < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"inotify_init1: {os.strerror(errno)}")


class _Notifier(pyinotify.Notifier):  # type: ignore[misc]
    """As `pyinotify.Notifier`, with a bounded read that takes any name."""

    def read_events(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            wd, mask, cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            self.append_event(pyinotify._RawEvent(wd, mask, cookie, name))
            offset += length


class Inotify:
    """Watches on directories. Nothing blocks. Source: inotify(7)."""

    def __init__(self) -> None:
        """
        Open an instance.

        Raises:
            OSError: ``EMFILE`` where ``fs.inotify.max_user_instances`` is reached.
        """
        self._events: list[Event] = []
        self._manager = _WatchManager()
        self._notifier = _Notifier(self._manager, default_proc_fun=self._take)

    def fileno(self) -> int:
        """Return the descriptor that turns readable with the next event."""
        return int(self._manager.get_fd())

    def add(self, directory_fd: int) -> int:
        """
        Watch the directory that *directory_fd* holds, not whatever its path leads to by now.

        The descriptor may be closed afterwards: a watch does not keep a file system mounted, an open
        directory would. Watching one directory twice gives the same number twice.

        Raises:
            OSError: ``ENOSPC`` where ``fs.inotify.max_user_watches`` is reached.
        """
        path = f"/proc/self/fd/{directory_fd}"
        wd = self._manager.add_watch(path, DIRECTORY_MASK)[path]
        if wd < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"inotify_add_watch: {os.strerror(errno)}")
        return int(wd)

    def remove(self, wd: int) -> None:
        """End a watch; one that the kernel has ended already is no error."""
        self._manager.rm_watch(wd)

    def read(self) -> list[Event]:
        """Return what one bounded read gives; nothing if nothing is there."""
        self._notifier.read_events()
        self._notifier.process_events()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End all watches."""
        self._manager.close()

    def _take(self, event: Any) -> None:
        """Keep what pyinotify hands over; an overflow has neither a watch nor a name."""
        self._events.append(Event(getattr(event, "wd", -1), event.mask, getattr(event, "name", "")))
