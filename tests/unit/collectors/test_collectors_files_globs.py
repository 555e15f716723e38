from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from collector.collectors.files.globs import expand, open_found
from collector.host.files import Host
from collector.host.read_errors import ReadErrors
from collector.host.trusted_path import open_directory
from collector.model.errors import StepError

NOBODY = 65534


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "app/a.log",
        "app/b.log",
        "app/.hidden.log",
        "app/sub/c.log",
        "app/sub/deep/d.log",
        "other/secret.log",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(root: Path, glob: str, unread: ReadErrors | None = None) -> list[str]:
    found = expand(Host(), str(root / glob), unread if unread is not None else ReadErrors())
    return sorted(file.path.removeprefix(str(root) + "/") for file in found)


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("app/a.log", ["app/a.log"]),
        ("app/*.log", ["app/a.log", "app/b.log"]),
        ("app/.*.log", ["app/.hidden.log"]),
        ("*/*.log", ["app/a.log", "app/b.log", "other/secret.log"]),
        ("app/**/*.log", ["app/a.log", "app/b.log", "app/sub/c.log", "app/sub/deep/d.log"]),
        ("app/**", ["app/a.log", "app/b.log"]),
        ("app/sub/*/d.log", ["app/sub/deep/d.log"]),
        ("app/[ab].log", ["app/a.log", "app/b.log"]),
        ("app/missing.log", []),
        ("missing/*.log", []),
    ],
)
def test_expand_finds_what_a_shell_would(tree: Path, glob: str, expected: list[str]) -> None:
    """A star stays within one directory, ** does not, and hidden names need a dot."""
    assert names(tree, glob) == expected


def test_expand_follows_no_symlink_below_its_root(tree: Path) -> None:
    """Neither to a directory nor to a file; what was skipped is recorded."""
    (tree / "app" / "linked").symlink_to(tree / "other")
    (tree / "app" / "link.log").symlink_to(tree / "other" / "secret.log")
    unread = ReadErrors()
    assert names(tree, "app/**/*.log", unread) == names(tree, "app/**/[a-d].log")
    assert names(tree, "app/*/secret.log") == []
    assert len(unread) == 1


def test_expand_skips_everything_but_regular_files(tree: Path) -> None:
    """A FIFO, a socket, a directory: listed, never opened."""
    os.mkfifo(tree / "app" / "fifo.log")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "app" / "sock.log"))
        (tree / "app" / "dir.log").mkdir()
        unread = ReadErrors()
        assert names(tree, "app/*.log", unread) == ["app/a.log", "app/b.log"]
        assert len(unread) == 3


def test_expand_follows_the_operators_own_symlink_to_the_root(tree: Path) -> None:
    """A log directory that was moved, /var/run: the link's owner is trusted."""
    (tree / "moved").symlink_to("app/sub")
    assert names(tree, "moved/*.log") == ["moved/c.log"]
    (tree / "absolute").symlink_to(tree / "app" / "sub" / ".." / "sub")
    assert names(tree, "absolute/*.log") == ["absolute/c.log"]


@pytest.mark.root
def test_expand_follows_no_symlink_of_another_user_to_the_root(tree: Path) -> None:
    """The owner of a directory on the way must not redirect a configured path."""
    (tree / "theirs").symlink_to("other")
    os.chown(tree / "theirs", NOBODY, NOBODY, follow_symlinks=False)
    unread = ReadErrors()
    assert names(tree, "theirs/*.log", unread) == []
    assert len(unread) == 1
    with pytest.raises(StepError, match="symlink of user 65534"):
        open_directory(Host(), str(tree / "theirs"))


def test_open_directory_gives_up_on_symlinks_in_a_circle(tmp_path: Path) -> None:
    """As the kernel does."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StepError, match="more than 40"):
        open_directory(Host(), str(tmp_path / "a"))


def test_open_found_refuses_a_file_that_was_replaced(tree: Path) -> None:
    """Another file may take the name between the search and the open."""
    (found,) = expand(Host(), str(tree / "app" / "a.log"), ReadErrors())
    os.close(open_found(Host(), found))
    (tree / "app" / "new").write_text("x")
    (tree / "app" / "new").rename(tree / "app" / "a.log")
    with pytest.raises(StepError, match="replaced"):
        open_found(Host(), found)
    (tree / "app" / "a.log").unlink()
    (tree / "app" / "a.log").symlink_to("b.log")
    with pytest.raises(OSError, match="symbolic"):
        open_found(Host(), found)


def test_globs_leak_no_descriptor(tree: Path) -> None:
    """Even if the caller stops half-way."""
    before = os.listdir("/proc/self/fd")
    walk = expand(Host(), str(tree / "**" / "*.log"), ReadErrors())
    next(walk)
    del walk
    names(tree, "app/**/*.log")
    assert os.listdir("/proc/self/fd") == before
