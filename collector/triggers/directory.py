"""A watched directory, and what appears in it."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

from collector.host.files import Host, OpenFd
from collector.host.trusted_path import SEARCH_FLAGS, FoundDirectory, Identity, find_directory, identity, keeps_names
from collector.model.errors import StepError


@dataclass(frozen=True, slots=True, eq=False)
class Directory:
    """
    A directory that is or was to be watched; its *identity* tells it from another one that takes its path later.

    *depth* is the number of levels below it that are watched as well, *inside* the watched directory that it was found
    in; ``None`` if the configuration names it.
    """

    path: str
    identity: Identity
    owner: str
    depth: int
    inside: Directory | None = None

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def find(self, avoid: Container[Identity] = ()) -> FoundDirectory:
        """
        Return the directory to resolve names against.

        Raises:
            OSError: If it, or another directory, cannot be found at its path.
        """
        try:
            if self.inside is None:
                found = find_directory(Host(), self.path, avoid=avoid)
            else:
                found = self.inside.find_below(self.name, avoid)
        except StepError as exc:
            raise NotADirectoryError(str(exc)) from exc
        if identity(found.fd) != self.identity:
            os.close(found.fd)
            raise FileNotFoundError(f"{self.path!r} is no longer the directory that was watched")
        return found

    def find_below(self, name: str, avoid: Container[Identity] = ()) -> FoundDirectory:
        """Return a subdirectory, which others create and no symlink leads to."""
        parent = self.find(avoid)
        with OpenFd(parent.fd):
            fd = os.open(name, SEARCH_FLAGS, dir_fd=parent.fd)
            return FoundDirectory(fd, parent.trusted and keeps_names(parent.fd))


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
