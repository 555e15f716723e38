"""
Walking a tree that others may write to, by descriptor and without recursion.

Time and memory are bounded, and shared fairly: the names in a directory are looked at on account of its owner, those in
a directory of root's that anybody may write to on account of everybody. So one user's million names cost nobody else's
directories; in a shared directory, whoever depends on one name has to look it up by that name.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from collector.host.files import OpenFd, open_directory_beneath
from collector.host.read_errors import ReadErrors
from collector.model.owners import ROOT, Owners
from collector.model.shares import FairTable, has_room

S = TypeVar("S")
WILD = frozenset("*?[")
MAX_DEPTH = 16
# Beyond any real name; 5,000 rows of an inventory with such names, escaped, take 13 MiB.
MAX_PATH_BYTES = 512
# A quarter of them may be one user's: 262,144 names in one directory of tmpfs take 0.3 s.
MAX_NAMES = 1 << 20
# Opening a directory, from the root on, takes as long as reading some twenty names.
DIRECTORY_COST = 16
MAX_WAITING = 4096
# Between two looks at the shares, which take as long as some ten names.
BATCH = 256
EVERYBODY = "everybody"


def is_literal(pattern: str) -> bool:
    """Return whether a glob names one thing only."""
    return not WILD & set(pattern)


class Visit(NamedTuple, Generic[S]):
    """A directory, open until the next one is asked for; *prefix* is its path below the root, with a slash."""

    fd: int
    prefix: str
    owner: str
    state: S


@dataclass(frozen=True, slots=True)
class NamedEntry:
    """What is looked up by its name, with the methods of `os.DirEntry`."""

    name: str
    status: os.stat_result

    def is_dir(self, *, follow_symlinks: bool) -> bool:  # noqa: ARG002 - it never is
        return stat.S_ISDIR(self.status.st_mode)

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:  # noqa: ARG002
        return self.status


Entry = os.DirEntry[str] | NamedEntry


class Tree(Generic[S]):
    """
    What is below one directory, on its file system, the nearest first.

    Args:
        root_fd: The directory; closing it is left to the caller.
        root: Its path, for *unread*.
        owners: Whose directories are whose.
        unread: Receives what cannot be entered, or only in part.
    """

    def __init__(self, root_fd: int, root: str, *, owners: Owners, unread: ReadErrors) -> None:
        self.root = root.rstrip("/")
        self.owners = owners
        self.unread = unread
        self.left_out: Counter[str] = Counter()
        """Directories that were not read to their end, by owner."""
        self._root_fd = root_fd
        self._looked_at: Counter[str] = Counter()
        self._waiting: FairTable[str, tuple[str, S]] = FairTable(MAX_WAITING)

    def visit(self, state: S) -> Iterator[Visit[S]]:
        """Yield the root, with *state*, then what was entered meanwhile, in that order."""
        device = os.fstat(self._root_fd).st_dev
        self._waiting.put("", (ROOT, state), ROOT)
        while (first := next(self._waiting.items(), None)) is not None:
            path, (owner, state) = first
            self._waiting.pop(path)
            if not has_room(self._looked_at, owner, MAX_NAMES):
                self.left_out[owner] += 1
                continue
            try:
                fd = open_directory_beneath(self._root_fd, path) if path else os.dup(self._root_fd)
            except OSError as exc:
                self._unread(path, exc, owner)
                continue
            with OpenFd(fd):
                status = os.fstat(fd)
                if status.st_dev != device:
                    self._unread(path, "another file system is mounted there", owner)
                    continue
                owner = self._owner(status)
                self._looked_at[owner] += DIRECTORY_COST
                yield Visit(fd, path + "/" if path else "", owner, state)

    def entries(self, visit: Visit[S], names: Iterable[str] = (), *, listed: bool = True) -> Iterator[Entry]:
        """Yield those with the given *names*, then, if *listed*, the others as far as their share allows."""
        known = set(names)
        for name in known:
            try:
                yield NamedEntry(name, os.stat(name, dir_fd=visit.fd, follow_symlinks=False))
            except OSError as exc:
                self._unread(visit.prefix + name, exc, visit.owner)
        if not listed:
            return
        with os.scandir(visit.fd) as found:
            for entry in found:
                self._looked_at[visit.owner] += 1
                if self._looked_at[visit.owner] % BATCH == 0 and not self._has_room(visit):
                    return
                if entry.name not in known:
                    yield entry

    def enter(self, visit: Visit[S], entry: Entry, state: S) -> None:
        """Visit a directory later; raise `OSError` if it is gone."""
        path = visit.prefix + entry.name
        owner = self._owner(entry.stat(follow_symlinks=False))
        if path.count("/") >= MAX_DEPTH:
            self._unread(path, f"more than {MAX_DEPTH} directories deep", owner)
        elif len(os.fsencode(path)) > MAX_PATH_BYTES:
            self._unread(path, f"a path of more than {MAX_PATH_BYTES} bytes", owner)
        elif (displaced := self._waiting.put(path, (owner, state), owner)) is not None:
            self.left_out[displaced[1][0]] += 1

    def _has_room(self, visit: Visit[S]) -> bool:
        if has_room(self._looked_at, visit.owner, MAX_NAMES):
            return True
        self._unread(visit.prefix.rstrip("/"), "not read to its end: it has too many names", visit.owner)
        self.left_out[visit.owner] += 1
        return False

    def _owner(self, status: os.stat_result) -> str:
        owner = self.owners.of(status.st_uid)
        return EVERYBODY if owner == ROOT and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else owner

    def _unread(self, path: str, why: Exception | str, owner: str) -> None:
        self.unread.add(f"{self.root}/{path}", why, owner)
