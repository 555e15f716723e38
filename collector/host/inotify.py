"""
Directory events; the only module that imports pyinotify.

pyinotify 0.9.6 keeps the watches and decodes events. Four of its behaviours do not suit a daemon that must survive
hostile file names, and are overridden here. Its last release was in 2015, so the private names used are stable.

- A name that is not UTF-8 makes ``read_events`` raise and lose everything it has read.
- ``read_events`` reads the whole queue at once, which can be megabytes.
- Creating a `WatchManager` runs ``ldconfig`` in a child process to find libc.
- Its descriptor blocks and is inherited by children.
"""

from __future__ import annotations

import ctypes
import os
import struct
import warnings
from typing import Any

with warnings.catch_warnings():  # it imports asyncore, which is deprecated in Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    import pyinotify

from collector.host.inotify_events import DIRECTORY_MASK, InotifyEvent
from collector.host.syscalls import LIBC

# One read returns between 60 events (names of NAME_MAX bytes) and 1,024, which pyinotify takes 5 ms to decode.
READ_BYTES = 16_384
_HEADER = struct.Struct("iIII")

pyinotify.log.handlers.clear()  # it prints to stderr on its own
pyinotify.log.disabled = True


class _Libc(pyinotify._CtypesLibcINotifyWrapper):  # type: ignore[misc]  # pyinotify has no types
    """The system calls: non-blocking, close-on-exec, with file names that are not UTF-8."""

    def init(self) -> bool:
        self._libc = LIBC
        self._get_errno_func = ctypes.get_errno
        self._libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
        return True

    def _inotify_init(self) -> int:
        return int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def _inotify_add_watch(self, fd: int, pathname: str, mask: int) -> int:
        return int(self._libc.inotify_add_watch(fd, os.fsencode(pathname), mask))


class _WatchManager(pyinotify.WatchManager):  # type: ignore[misc]
    """A `pyinotify.WatchManager` that uses `_Libc`."""

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
    """A `pyinotify.Notifier` with a bounded read that accepts any name."""

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
    """Watches on directories; no call blocks. Source: inotify(7)."""

    def __init__(self) -> None:
        """Open an instance; raise `OSError` (``EMFILE``) if ``fs.inotify.max_user_instances`` is reached."""
        self._events: list[InotifyEvent] = []
        self._manager = _WatchManager()
        self._notifier = _Notifier(self._manager, default_proc_fun=self._take)

    def fileno(self) -> int:
        return int(self._manager.get_fd())

    def add(self, directory_fd: int) -> int:
        """
        Watch the directory behind *directory_fd*, whatever is at its path by now; return the watch's number.

        The descriptor may be closed afterwards; unlike an open directory, a watch does not keep a file system mounted.
        Watching a directory twice returns the same number.

        Raises:
            OSError: ``ENOSPC`` if ``fs.inotify.max_user_watches`` is reached.
        """
        path = f"/proc/self/fd/{directory_fd}"
        wd = self._manager.add_watch(path, DIRECTORY_MASK)[path]
        if wd < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"inotify_add_watch: {os.strerror(errno)}")
        return int(wd)

    def remove(self, wd: int) -> None:
        """Remove a watch, if the kernel has not removed it already."""
        self._manager.rm_watch(wd)

    def read(self) -> list[InotifyEvent]:
        """Return the events of one bounded read."""
        self._notifier.read_events()
        self._notifier.process_events()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._manager.close()

    def _take(self, event: Any) -> None:
        """Receive an event from pyinotify; an overflow has neither a watch nor a name."""
        self._events.append(InotifyEvent(getattr(event, "wd", -1), event.mask, getattr(event, "name", "")))
