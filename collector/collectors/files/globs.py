"""Globs over files that anybody may have planted: by directory descriptor, following no symlink."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase

import msgspec

from collector.host.files import Host, OpenFd, kind_of, open_beneath
from collector.host.read_errors import ReadErrors
from collector.host.tree import Tree, is_literal
from collector.host.trusted_path import open_directory
from collector.model.errors import StepError
from collector.model.owners import Owners

ALONE = Owners()
States = frozenset[int]
"""Which components of a glob the names in a directory are compared with."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A regular file that a glob found: *name* below the directory *root*, with its status."""

    root: str
    name: str
    status: os.stat_result

    @property
    def path(self) -> str:
        return f"{self.root.rstrip('/')}/{self.name}"


def expand(
    host: Host, glob: str, unread: ReadErrors, *, owners: Owners = ALONE, gaps: Counter[str] | None = None
) -> Iterator[Found]:
    """
    Yield the regular files that match *glob*, those in the nearest directories first.

    The components before the first wildcard are the root. Below it no symlink is followed, and matches that are not
    regular files are recorded in *unread*. ``**`` stands for any number of directories. Names without a wildcard are
    looked up, however many others there are.

    Args:
        host: The machine.
        glob: An absolute path.
        unread: Receives what was not read.
        owners: Whose directories are whose: each may take his share of the search.
        gaps: Receives the number of directories that were not searched to their end, by owner.
    """
    parts = [part for part in glob.split("/") if part]
    wild = next((index for index, part in enumerate(parts) if not is_literal(part)), len(parts) - 1)
    root, patterns = "/" + "/".join(parts[:wild]), parts[wild:]
    try:
        fd = open_directory(host, root)
    except (OSError, StepError) as exc:
        unread.add(root, exc)
        return
    with OpenFd(fd):
        tree: Tree[States] = Tree(fd, root, owners=owners, unread=unread)
        for name, status in _matches(tree, patterns):
            yield Found(root=root, name=name, status=status)
        if gaps is not None:
            gaps.update(tree.left_out)


def _matches(tree: Tree[States], patterns: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the matching files; each directory is visited once, whatever ways lead there."""
    last = len(patterns) - 1
    for visit in tree.visit(frozenset({0})):
        states = _with_skipped(visit.state, patterns)
        literal = [patterns[state] for state in states if is_literal(patterns[state])]
        for entry in tree.entries(visit, literal, listed=len(literal) < len(states)):
            met = [state for state in states if _fits(entry.name, patterns[state])]
            inner = frozenset(state + (patterns[state] != "**") for state in met if state != last)
            try:
                if inner and entry.is_dir(follow_symlinks=False):
                    tree.enter(visit, entry, inner)
                if last in met:
                    status = entry.stat(follow_symlinks=False)
                else:
                    continue
            except OSError as exc:
                tree.unread.add(f"{tree.root}/{visit.prefix}{entry.name}", exc, visit.owner)
                continue
            if stat.S_ISREG(status.st_mode):
                yield visit.prefix + entry.name, status
            elif patterns[last] != "**":
                why = f"a {kind_of(status.st_mode)}, not a regular file"
                tree.unread.add(f"{tree.root}/{visit.prefix}{entry.name}", why, tree.owners.of(status.st_uid))


def _with_skipped(states: States, patterns: list[str]) -> States:
    """Return *states* and those behind each ``**``, which also stands for no directory at all."""
    found = set(states)
    for state in range(len(patterns) - 1):
        if state in found and patterns[state] == "**":
            found.add(state + 1)
    return frozenset(found)


def _fits(name: str, pattern: str) -> bool:
    """Return whether a name matches; a hidden one only if the pattern begins with a dot too."""
    hidden = name.startswith(".") and not pattern.startswith(".")
    return not hidden and (pattern == "**" or fnmatchcase(name, pattern))


def open_found(host: Host, found: Found) -> int:
    """Open a file that `expand` found; raise `StepError` if another file has its name now."""
    with OpenFd(open_directory(host, found.root)) as root_fd:
        fd = open_beneath(root_fd, found.name)
    if not os.path.samestat(os.fstat(fd), found.status):
        os.close(fd)
        raise StepError(f"{found.path!r} was replaced while it was opened")
    return fd
