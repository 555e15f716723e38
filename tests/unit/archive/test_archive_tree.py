"""Trees that somebody else has made: deep, wide, with anything in them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.archive import layout, tree
from collector.archive.prune import inventory, prune
from collector.archive.read import ArchiveReader
from collector.model.retention import RetentionRules

DEPTH = 1200
"""Python recurses a thousand times."""
FEW = 48
"""More descriptors than anything here needs beside those that pytest has open."""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + FEW, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def nest(path: Path, depth: int, name: str = "d") -> None:
    """Make *depth* directories within each other, and a file in each."""
    path.mkdir(exist_ok=True)
    fd = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_deep_tree_is_deleted(tmp_path: Path) -> None:
    """Deeper than Python recurses, and than a path may be long; with a handful of descriptors."""
    nest(tmp_path / "tree", 3000, name="d" * 200)
    (tmp_path / "tree/link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "tree/fifo")
    with opened(tmp_path) as fd, few_descriptors():
        tree.remove_tree("tree", fd)
    assert os.listdir(tmp_path) == []


def test_wide_tree_is_deleted(tmp_path: Path) -> None:
    """More entries than are in memory at a time, at each of two levels."""
    for number in range(tree.BATCH + 1):
        (tmp_path / f"tree/{number}").mkdir(parents=True)
        (tmp_path / f"tree/0/{number}").mkdir()
        (tmp_path / f"tree/{number}/file").touch()
    with opened(tmp_path) as fd:
        tree.remove_tree("tree", fd)
    assert os.listdir(tmp_path) == []


def test_deletion_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    """Killed halfway, it has left directories under names of its own."""
    nest(tmp_path / "tree", 5)
    os.rename(tmp_path / "tree/d/d", tmp_path / "tree/0123456789abcdef")
    with opened(tmp_path) as fd:
        tree.remove_tree("tree", fd)
        with pytest.raises(FileNotFoundError):
            tree.remove_tree("tree", fd)
    assert os.listdir(tmp_path) == []


def test_files_of_a_deep_tree_are_listed_down_to_a_limit(tmp_path: Path) -> None:
    """What lies deeper is not the collector's; no symlink is followed."""
    nest(tmp_path / "tree", DEPTH)
    (tmp_path / "tree/link").symlink_to("/etc")
    with opened(tmp_path) as parent:
        with opened(tmp_path / "tree") as fd, few_descriptors():
            found = [path for path, _ in tree.files(fd)]
        tree.remove_tree("tree", parent)  # pytest cannot
    assert found == [f"{'d/' * depth}file" for depth in range(1, tree.DEPTH + 1)]


def test_files_are_listed_in_order(tmp_path: Path) -> None:
    """Each directory's own, then those within it; names by their bytes."""
    for path in ("b/2", "b/1", "a/x/1", "a/y", "c"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with opened(tmp_path) as fd:
        assert [path for path, _ in tree.files(fd)] == ["c", "a/y", "a/x/1", "b/1", "b/2"]


def test_deep_tree_in_an_incident_of_another_machine_is_pruned(tmp_path: Path) -> None:
    """It costs the incidents beside it nothing."""
    tmp_path.chmod(0o700)
    names = [f"20261128T00000{number}.000000Z-aaaaaa" for number in range(3)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(4096))
    nest(tmp_path / names[0], DEPTH)
    with ArchiveReader(str(tmp_path)) as archive, few_descriptors():
        assert [kept.size_bytes for kept in inventory(archive)] == [4096] * 3
        rules = RetentionRules(count=2, age_s=None, size_bytes=None)
        assert [kept.id for kept in prune(archive, rules).gone] == names[:1]
        assert archive.names() == names[1:]
    assert not list(tmp_path.glob(f"*{layout.DELETING}"))


def test_incident_that_cannot_be_deleted_costs_only_itself(tmp_path: Path) -> None:
    """Its name is taken by the remains of an earlier deletion: it is named, the next one goes."""
    tmp_path.chmod(0o700)
    names = [f"20261128T00000{number}.000000Z-aaaaaa" for number in range(3)]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / f"{names[0]}{layout.DELETING}").write_text("")
    with ArchiveReader(str(tmp_path)) as archive:
        gone, problems, *_ = prune(archive, RetentionRules(count=1, age_s=None, size_bytes=None))
        assert [kept.id for kept in gone] == names[1:2]
        assert names[0] in problems[0]
        (kept,) = prune(archive, RetentionRules(count=1, age_s=None, size_bytes=None)).gone
        assert kept.id == names[0], "the remains are gone"


def test_writing_counts_the_data_of_files_in_part_and_not_what_is_reserved(tmp_path: Path) -> None:
    """A copy reserves its space first: else an incident under way is shown as written before it is."""
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments/0001").write_bytes(b"x" * 8192)
    with (tmp_path / f"segments/0002{layout.PART}").open("wb") as part:
        os.posix_fallocate(part.fileno(), 0, 1 << 20)
        part.write(b"x" * 4096)
    with opened(tmp_path) as fd:
        assert tree.writing(fd) == 4096
        assert tree.written(fd) == 12_288
