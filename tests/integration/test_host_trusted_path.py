"""Paths and globs by component: whose symlinks are followed, and what is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collector.host.files import Host, OpenFd
from collector.host.trusted_path import AvoidedDirectoryError, UntrustedSymlinkError, find_directory, identity
from collector.triggers.directory_search import DirectorySearch

NOBODY = 65534


def opened(path: Path, **options: object) -> tuple[int, int]:
    with OpenFd(find_directory(Host(), str(path), **options).fd) as fd:  # type: ignore[arg-type]
        return identity(fd)


def of(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino


def search(*paths: Path | str, avoid: frozenset[tuple[int, int]] = frozenset()) -> tuple[list[str], dict[str, str]]:
    problems: dict[str, str] = {}
    found = DirectorySearch(tuple(map(str, paths)), avoid, problems.__setitem__)
    return sorted(one.path for one in found if one is not None), problems


def test_directory_is_found_through_ones_own_symlinks(tmp_path: Path) -> None:
    """Relative, absolute, through a parent, and one after another."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "relative").symlink_to("a/../a")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    for path in ("a/b", "relative/b", "absolute/b", "a//b/", "a/./b/../b"):
        assert opened(tmp_path / path) == of(tmp_path / "a/b")


@pytest.mark.root
@pytest.mark.parametrize("sticky", [False, True])
def test_directory_is_not_found_through_another_users_symlink(tmp_path: Path, sticky: bool) -> None:
    """Whatever component it is, and also where root's symlink leads through it; root's own in /tmp is root's."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "theirs").symlink_to("a")
    os.chown(tmp_path / "theirs", NOBODY, NOBODY, follow_symlinks=False)
    (tmp_path / "roots").symlink_to("theirs/b")
    tmp_path.chmod(0o1777 if sticky else 0o755)
    for path in ("theirs", "theirs/b", "roots", "a/../theirs/b"):
        with pytest.raises(UntrustedSymlinkError, match="'theirs' is a symlink of user 65534") as caught:
            opened(tmp_path / path)
        assert caught.value.hint is not None
    (tmp_path / "good").symlink_to("a/b")
    assert opened(tmp_path / "good") == of(tmp_path / "a/b")


@pytest.mark.root
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "followed"),
    [
        (0, 0, 0o775, True),
        (0, 0, 0o1777, True),
        (0, NOBODY, 0o775, False),
        (0, 0, 0o777, False),
        (NOBODY, 0, 0o755, False),
    ],
)
def test_directory_is_not_found_through_a_symlink_that_others_may_have_moved(
    tmp_path: Path, uid: int, gid: int, mode: int, followed: bool
) -> None:
    """Root's symlink, in or below a directory of which another may rename what is in it."""
    (tmp_path / "app/roots").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    for link in ("app/link", "app/roots/link"):
        (tmp_path / link).symlink_to(tmp_path / "a")
    os.chown(tmp_path / "app", uid, gid)
    (tmp_path / "app").chmod(mode)
    for link in ("app/link", "app/roots/link"):
        if followed:
            assert opened(tmp_path / link) == of(tmp_path / "a")
        else:
            with pytest.raises(UntrustedSymlinkError, match="others may have put there") as caught:
                opened(tmp_path / link)
            assert caught.value.hint is not None
    assert opened(tmp_path / "app/roots") == of(tmp_path / "app/roots")


@pytest.mark.root
def test_directory_that_cannot_be_read_leads_to_others(tmp_path: Path) -> None:
    """As when a path is resolved, to search it is enough."""
    (tmp_path / "a/b").mkdir(parents=True)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o055)
    (tmp_path / "a").chmod(0o711)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(opened(tmp_path / "a/b") != of(tmp_path / "a/b"))
    assert os.waitpid(child, 0)[1] == 0


def test_directory_to_avoid_is_not_entered_on_any_way(tmp_path: Path) -> None:
    """By its name, through a symlink, or below it."""
    (tmp_path / "archive/x").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("archive/x")
    for path in ("archive", "archive/x", "alias"):
        with pytest.raises(AvoidedDirectoryError):
            opened(tmp_path / path, avoid={of(tmp_path / "archive")})
    assert search(tmp_path / "*", avoid=frozenset({of(tmp_path / "archive")})) == ([], {})


def test_search_finds_what_a_glob_matches(tmp_path: Path) -> None:
    """Directories alone, hidden ones only if the glob begins with a dot, and names that look like globs."""
    for name in ("a1/exits", "a2/exits", "a3", ".hidden/exits", "b*/exits", "b1/exits"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a3/exits").touch()
    (tmp_path / "a4").touch()
    (tmp_path / "a5").symlink_to("a1")

    def names(pattern: str) -> list[str]:
        found, problems = search(tmp_path / pattern)
        assert problems == {}
        return [os.path.relpath(path, tmp_path) for path in found]

    assert names("*/exits") == ["a1/exits", "a2/exits", "a5/exits", "b*/exits", "b1/exits"]
    assert names("a[12]/e*") == ["a1/exits", "a2/exits"]
    assert names("[!a]?/exits") == ["b*/exits", "b1/exits"]
    assert names(".h*/*") == [".hidden/exits"]
    assert names("b[*]/exits") == ["b*/exits"]
    assert names("nowhere/*/exits") == names("a3/exits") == names("a4/*") == []
    assert search("/") == (["/"], {})


@pytest.mark.root
def test_search_says_which_symlink_it_has_not_followed(tmp_path: Path) -> None:
    """One of another user's that a glob matches hides nothing else."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "c").symlink_to("a")
    os.chown(tmp_path / "c", NOBODY, NOBODY, follow_symlinks=False)
    found, problems = search(tmp_path / "*")
    assert found == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert list(problems) == [str(tmp_path / "c")]
    assert "let root own the symlink" in problems[str(tmp_path / "c")]
