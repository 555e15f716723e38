from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.host import tree
from collector.host.read_errors import ReadErrors
from collector.host.tree import EVERYBODY, Tree, is_literal
from collector.model.owners import Owners

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield tmp_path, fd
    os.close(fd)


def walk(fd: int, *names: str, listed: bool = True) -> tuple[list[str], Tree[None]]:
    """Return what is found below *fd*, every directory entered."""
    walked: Tree[None] = Tree(fd, "/root", owners=Owners(), unread=ReadErrors())
    found = []
    for visit in walked.visit(None):
        for entry in walked.entries(visit, names, listed=listed):
            found.append(visit.prefix + entry.name)
            if entry.is_dir(follow_symlinks=False):
                walked.enter(visit, entry, None)
    return found, walked


def test_tree_finds_the_nearest_first_and_follows_no_symlink(root: tuple[Path, int]) -> None:
    """A directory's own names come before those of the directories in it."""
    path, fd = root
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "file").touch()
    (path / "link").symlink_to("a")
    found, walked = walk(fd)
    assert set(found[:2]) == {"a", "link"}
    assert found[2:] == ["a/b", "a/b/file"]
    assert walked.left_out == {}


def test_tree_finds_what_is_named_even_if_nothing_is_listed(root: tuple[Path, int]) -> None:
    """A name that is known needs no listing, and does not come twice."""
    path, fd = root
    for name in ("one", "two"):
        (path / name).touch()
    assert walk(fd, "two", listed=False)[0] == ["two"]
    assert walk(fd, "two")[0] == ["two", "one"]
    found, walked = walk(fd, "missing", listed=False)
    assert (found, len(walked.unread)) == ([], 1)


def test_tree_does_not_go_on_into_a_directory_that_was_replaced_by_a_symlink(root: tuple[Path, int]) -> None:
    """Between its listing and its turn."""
    path, fd = root
    (path / "a").mkdir()
    (path / "secret").mkdir()
    (path / "secret" / "file").touch()
    walked: Tree[None] = Tree(fd, "/root", owners=Owners(), unread=ReadErrors())
    visits = walked.visit(None)
    visit = next(visits)
    for entry in walked.entries(visit, ("a",), listed=False):
        walked.enter(visit, entry, None)
    (path / "a").rmdir()
    (path / "a").symlink_to("secret")
    assert list(visits) == []
    assert len(walked.unread) == 1


def test_tree_bounds_depth_and_length_of_paths(root: tuple[Path, int]) -> None:
    """Both are the choice of whoever creates the directories."""
    path, fd = root
    path.joinpath(*["d"] * 30).mkdir(parents=True)
    path.joinpath(*["n" * 200] * 5).mkdir(parents=True)
    found, walked = walk(fd)
    assert max(name.count("/") for name in found) == tree.MAX_DEPTH
    assert max(map(len, found)) <= tree.MAX_PATH_BYTES + 256
    assert len(walked.unread) == 2


@pytest.mark.root
def test_tree_counts_a_users_names_on_his_own_account(root: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in a directory of root's where anybody may create them are everybody's."""
    monkeypatch.setattr(tree, "MAX_NAMES", 4096)
    path, fd = root
    for name, uid, mode, count in (
        ("mine", NOBODY, 0o777, 1500),
        ("shared", 0, 0o1777, 1500),
        ("roots", 0, 0o755, 600),
    ):
        (path / name).mkdir()
        for number in range(count):
            (path / name / str(number)).touch()
        os.chown(path / name, uid, uid)
        (path / name).chmod(mode)
    found, walked = walk(fd)
    assert walked.left_out == {f"uid {NOBODY}": 1, EVERYBODY: 1}
    assert sum(name.startswith("roots/") for name in found) == 600
    assert 600 < sum(name.startswith("mine/") for name in found) < 1100


@pytest.mark.root
def test_tree_bounds_the_directories_that_wait(root: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has most of them gives way."""
    monkeypatch.setattr(tree, "MAX_WAITING", 20)
    path, fd = root
    for number in range(100):
        (path / str(number)).mkdir()
        os.chown(path / str(number), NOBODY, NOBODY)
    for name in ("roots", "others"):
        (path / name).mkdir()
        (path / name / "file").touch()
    found, walked = walk(fd)
    assert {"roots/file", "others/file"} <= set(found)
    assert walked.left_out == {f"uid {NOBODY}": 82}


@pytest.mark.parametrize(
    ("pattern", "literal"), [("engine.1", True), ("engine.*", False), ("a?", False), ("[a]", False)]
)
def test_is_literal_tells_names_from_globs(pattern: str, literal: bool) -> None:
    """A bracket is a wildcard, too."""
    assert is_literal(pattern) is literal
