"""The directories that are watched: a fair share for each owner of some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collector.host.trusted_path import Identity
from collector.model.shares import FairTable
from collector.triggers.directory import Directory

if TYPE_CHECKING:
    from collector.host.inotify import Inotify

# A tree planted to eat all of fs.inotify.max_user_watches (8,192 on small machines) stops here.
MAX_DIRECTORIES = 1024


class DirectoryTable:
    """
    Watched directories; where the limit is reached, the owner who holds most gives way.

    Subdirectories that could not be watched wait until they can be: no search finds them again.

    Args:
        inotify: Where the watches are.
    """

    def __init__(self, inotify: Inotify) -> None:
        self._inotify = inotify
        self._watched: FairTable[Identity, tuple[int, Directory]] = FairTable(MAX_DIRECTORIES)
        self._by_wd: dict[int, Directory] = {}
        self._waiting: FairTable[tuple[Directory, str], str] = FairTable(MAX_DIRECTORIES)
        self._left_out: dict[str, None] = {}

    @property
    def problem(self) -> str | None:
        """For whose directories there was no room, if there are any."""
        names = ", ".join(list(self._left_out)[:3])
        return f"{MAX_DIRECTORIES} directories are watched already: more of {names} are not" if names else None

    def add(self, directory: Directory, fd: int) -> bool:
        """
        Watch the directory that *fd* is of, unless it is watched or there is no room; return whether that is new.

        Raises:
            OSError: From inotify_add_watch(2).
        """
        known = self._watched.get(directory.identity)
        if known is None and not self._watched.has_place(directory.owner):
            self._leave_out(directory)
            return False
        wd = self._inotify.add(fd)
        if known is not None and known[0] == wd:
            return False
        if known is not None:
            self.forget(known[1])
        self._by_wd[wd] = directory
        displaced = self._watched.put(directory.identity, (wd, directory), directory.owner)
        if displaced is not None:
            wd, before = displaced[1]
            del self._by_wd[wd]
            self._inotify.remove(wd)
            self._leave_out(before)
        return True

    def forget(self, directory: Directory) -> None:
        """Stop watching a directory that is no longer at its path, or cannot be read."""
        entry = self._watched.get(directory.identity)
        if entry is not None and entry[1] is directory:
            self._watched.pop(directory.identity)
            del self._by_wd[entry[0]]
            self._inotify.remove(entry[0])

    def by_wd(self, wd: int) -> Directory | None:
        return self._by_wd.get(wd)

    def wait(self, inside: Directory, name: str, owner: str) -> None:
        """Keep a subdirectory that cannot be watched now."""
        self._waiting.put((inside, name), owner, owner)

    def take_waiting(self) -> list[tuple[Directory, str]]:
        """Return the subdirectories for which there is room now, with the directory that each is in."""
        self._left_out = {}
        ready = []
        for key, owner in list(self._waiting.items()):
            if self._watched.has_place(owner):
                self._waiting.pop(key)
                ready.append(key)
            else:
                self._left_out[owner] = None
        return ready

    def __iter__(self) -> Iterator[Directory]:
        return iter(self._by_wd.values())

    def _leave_out(self, directory: Directory) -> None:
        self._left_out[directory.owner] = None
        if directory.inside is not None:
            self.wait(directory.inside, directory.name, directory.owner)
