from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.collectors.shm.listing import ShmFile, length_of, walk
from collector.collectors.shm.segment_names import segment_name
from collector.host.files import kind_of
from collector.host.read_errors import ReadErrors
from collector.host.tree import MAX_DEPTH, Tree
from collector.model.owners import Owners


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield tmp_path, fd
    os.close(fd)


def listing(fd: int, unread: ReadErrors | None = None) -> dict[str, ShmFile]:
    tree: Tree[None] = Tree(fd, "/", owners=Owners(), unread=unread if unread is not None else ReadErrors())
    return {entry.name: entry for entry in walk(tree)}


def test_walk_lists_every_kind_and_opens_none(root: tuple[Path, int]) -> None:
    """Each is listed with its kind."""
    path, fd = root
    (path / "segment").write_bytes(b"x" * 5000)
    (path / "link").symlink_to("/etc/shadow")
    os.mkfifo(path / "fifo")
    os.link(path / "segment", path / "second name")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "sock"))
        found = listing(fd)
    assert {name: kind_of(entry.status.st_mode) for name, entry in found.items()} == {
        "segment": "regular file", "second name": "regular file", "link": "symlink", "fifo": "FIFO", "sock": "socket",
    }  # fmt: skip
    assert {name for name, entry in found.items() if entry.is_segment} == {"segment", "second name"}
    status = found["segment"].status
    assert (status.st_size, status.st_nlink, status.st_uid) == (5000, 2, os.geteuid())


def test_walk_goes_into_directories(root: tuple[Path, int]) -> None:
    """By descriptor; a symlink to a directory is not one."""
    path, fd = root
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "segment").write_text("x")
    (path / "link").symlink_to("a")
    assert set(listing(fd)) == {"a", "a/b", "a/b/segment", "link"}


def test_walk_stops_at_a_depth(root: tuple[Path, int]) -> None:
    """Each level holds a descriptor, and anybody can create a thousand levels."""
    path, fd = root
    deep = path.joinpath(*["d"] * (MAX_DEPTH + 5))
    deep.mkdir(parents=True)
    unread = ReadErrors()
    assert len(listing(fd, unread)) == MAX_DEPTH + 1
    assert len(unread) == 1


def test_walk_distinguishes_allocated_bytes_from_length(root: tuple[Path, int]) -> None:
    """A sparse segment costs what is allocated, not its length."""
    path, fd = root
    with (path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 20)
        file.write(b"x" * 4096)
    entry = listing(fd)["sparse"]
    assert entry.status.st_size == 1 << 30
    assert entry.data_bytes <= 65_536


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/dev/shm/engine.1", "engine.1"),
        (b"/dev/shm/a/b", "a/b"),
        (b"/dev/shm/\xff", os.fsdecode(b"\xff")),
        (b"/dev/shm/../etc/shadow", None),
        (b"/dev/shm//x", None),
        (b"/dev/shm/", None),
        (b"/dev/shmx/y", None),
        (b"/memfd:x", None),
        (b"", None),
    ],
)
def test_segment_name_stays_below_dev_shm(path: bytes, name: str | None) -> None:
    """The list of mapped files is as hostile as the core that holds it."""
    assert segment_name(path, nameless=False) == name


def test_length_of_counts_data_and_not_holes(tmp_path: Path) -> None:
    """A limit in bytes of data is converted to a length."""
    with (tmp_path / "sparse").open("w+b") as file:
        file.truncate(64 << 20)
        for at in (1 << 20, 8 << 20):
            file.seek(at)
            file.write(b"x" * 65_536)
        file.flush()
        assert length_of(file.fileno(), 65_536) == (1 << 20) + 65_536
        assert length_of(file.fileno(), 65_536 + 4096) == (8 << 20) + 4096
        assert length_of(file.fileno(), 1 << 30) == (8 << 20) + 65_536
        assert length_of(file.fileno(), 0) == 0
