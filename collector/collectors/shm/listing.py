"""Shared-memory segments: walking a tmpfs, and which of its files a process has mapped."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator

import msgspec

from collector.host.files import DIRECTORY_FLAGS, kind_of
from collector.host.read_errors import Unreads

ROOT = "/dev/shm"  # noqa: S108 - it is only read
MAX_DEPTH = 16
DELETED = b" (deleted)"
_MAPS_LINE = re.compile(rb"([0-9a-f]+-[0-9a-f]+) \S+ [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([0-9]+) +(.+)")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """
    One name below the root. *name* is relative and as `os` functions give it.

    *data_bytes* is what is allocated; *size_bytes* may be far more in a sparse file.
    """

    name: str
    kind: str
    size_bytes: int
    data_bytes: int
    uid: int
    gid: int
    mode: int
    mtime_ns: int
    links: int
    device: int
    inode: int

    @property
    def regular(self) -> bool:
        """Whether it is a segment."""
        return self.kind == kind_of(stat.S_IFREG)


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file that a process has, or had, mapped.

    *device* and *inode* are known for a live process only, and *addresses* (of its first mapping)
    names it in ``/proc/PID/map_files``.
    """

    path: bytes
    deleted: bool
    device: int | None = None
    inode: int | None = None
    addresses: str | None = None


def entry(name: str, status: os.stat_result) -> Entry:
    """Describe one file."""
    return Entry(
        name=name,
        kind=kind_of(status.st_mode),
        size_bytes=status.st_size,
        data_bytes=status.st_blocks * 512,
        uid=status.st_uid,
        gid=status.st_gid,
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        links=status.st_nlink,
        device=status.st_dev,
        inode=status.st_ino,
    )


def length_of(fd: int, data_bytes: int) -> int:
    """Return up to where the first *data_bytes* of data reach, holes counted in. Source: lseek(2), SEEK_DATA."""
    end, left = 0, data_bytes
    while left > 0:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # no data behind
                break
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), start + left)
        left -= end - start
    return end


def walk(root_fd: int, unread: Unreads) -> Iterator[Entry]:
    """Yield every name below *root_fd*, directories before what they hold; nothing is opened but directories."""
    yield from _walk(root_fd, "", os.fstat(root_fd).st_dev, unread)


def _walk(directory_fd: int, prefix: str, device: int, unread: Unreads) -> Iterator[Entry]:
    with os.scandir(directory_fd) as names:
        for found in names:
            name = prefix + found.name
            try:
                status = os.stat(found.name, dir_fd=directory_fd, follow_symlinks=False)
            except OSError as exc:
                unread.add(f"{ROOT}/{name}", exc)
                continue
            yield entry(name, status)
            if stat.S_ISDIR(status.st_mode):
                yield from _descend(directory_fd, found.name, name, device, unread)


def _descend(parent_fd: int, base: str, name: str, device: int, unread: Unreads) -> Iterator[Entry]:
    if name.count("/") >= MAX_DEPTH:
        unread.add(f"{ROOT}/{name}", f"more than {MAX_DEPTH} directories deep")
        return
    try:
        fd = os.open(base, DIRECTORY_FLAGS, dir_fd=parent_fd)
    except OSError as exc:
        unread.add(f"{ROOT}/{name}", exc)
        return
    try:
        if os.fstat(fd).st_dev == device:
            yield from _walk(fd, name + "/", device, unread)
        else:
            unread.add(f"{ROOT}/{name}", "another file system is mounted there")
    finally:
        os.close(fd)


def parse_maps(lines: Iterable[bytes]) -> Iterator[Mapped]:
    """Yield the files of ``/proc/PID/maps``, a file once per mapping; anonymous mappings are left out."""
    for line in lines:
        match = _MAPS_LINE.fullmatch(line.rstrip(b"\n"))
        if match is None or int(match[4]) == 0:
            continue
        path = match[5].replace(b"\\012", b"\n")
        yield Mapped(
            path=path.removesuffix(DELETED),
            deleted=path.endswith(DELETED),
            device=os.makedev(int(match[2], 16), int(match[3], 16)),
            inode=int(match[4]),
            addresses=match[1].decode("ascii"),
        )


def parse_note_path(path: bytes) -> Mapped:
    """Return a file of a core's NT_FILE note."""
    return Mapped(path=path.removesuffix(DELETED), deleted=path.endswith(DELETED))
