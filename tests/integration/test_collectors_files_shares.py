"""What other users plant where a glob of `files` looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from collecting import Collected, collect

from collector.collectors.files.files import Files
from collector.host import tree

pytestmark = pytest.mark.root
NOBODY = 65534
NEW_S, OLD_S = 2e9, 1e9


def write(path: Path, *, size: int = 1, uid: int = 0, at_s: float = OLD_S) -> None:
    with path.open("wb") as file:
        file.truncate(size)
    os.utime(path, (at_s, at_s))
    os.chown(path, uid, uid)


def plant(directory: Path, count: int, *, size: int = 1) -> None:
    """Create files of one user that are newer than all others."""
    for number in range(count):
        write(directory / f"planted.{number}.log", size=size, uid=NOBODY, at_s=NEW_S + number)


def files(*paths: Path, **fields: object) -> Collected:
    return collect(Files(paths=tuple(map(str, paths)), **fields))  # type: ignore[arg-type]


def taken(collected: Collected) -> list[str]:
    rows = collected.rows("files.jsonl")
    return [row["path"].rpartition("/")[2] for row in rows if row["artifact"] in collected]


def cut(collected: Collected) -> str:
    return str(collected.artifacts["files.jsonl"].cut)


def test_files_of_root_are_taken_though_another_user_has_a_thousand_newer_ones(tmp_path: Path) -> None:
    """At the shipped limit of 1,000: he gives way, and the reason names him."""
    write(tmp_path / "root.log")
    write(tmp_path / "third.log", uid=1001)
    plant(tmp_path, 1001)
    collected = files(tmp_path / "*.log")
    assert {"root.log", "third.log"} <= set(taken(collected))
    assert len(taken(collected)) == 1000
    assert cut(collected) == f"3 files are beyond max_total or max_files (uid {NOBODY}: 3)"


def test_files_of_root_fit_though_another_user_has_newer_ones_that_fill_the_total(tmp_path: Path) -> None:
    """Many small ones and one large one; what the others do not need, he may use."""
    write(tmp_path / "root.log", size=50_000)
    write(tmp_path / "third.log", size=50_000, uid=1001)
    plant(tmp_path, 100, size=10_000)
    collected = files(tmp_path / "*.log", max_total=200_000)
    assert {"root.log", "third.log"} <= set(taken(collected))
    assert len(taken(collected)) == 12
    assert f"(uid {NOBODY}: 90)" in cut(collected)


def test_files_that_are_named_without_a_wildcard_come_before_all_others(tmp_path: Path) -> None:
    """Neither number, nor total, nor the names that are looked at keep them away."""
    write(tmp_path / "literal.log", size=100_000, uid=1001)
    plant(tmp_path, 20, size=10_000)
    collected = files(tmp_path / "*.log", tmp_path / "literal.log", max_files=5, max_total=120_000)
    assert taken(collected)[0] == "literal.log"
    assert len(taken(collected)) == 3


def test_files_in_directories_of_one_user_leave_those_of_others_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,100 of his beside one of root's, 3,000 levels, and two ways for ``**`` to reach the same directory."""
    monkeypatch.setattr(tree, "MAX_NAMES", 20_000)
    for number in range(1100):
        directory = tmp_path / f"d{number}"
        directory.mkdir()
        write(directory / "a.log", uid=NOBODY, at_s=NEW_S)
        os.chown(directory, NOBODY, NOBODY)
    (tmp_path / "z").mkdir()
    write(tmp_path / "z" / "root.log")
    inner = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=inner)
        outer, inner = inner, os.open("deep", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    try:
        collected = files(tmp_path / "**" / "**" / "*.log")
    finally:
        os.close(inner)
        flatten(tmp_path / "deep")
    assert "root.log" in taken(collected)
    assert f"not all names were compared with paths (uid {NOBODY}: " in collected.missing
    paths = [row["path"] for row in collected.rows("files.jsonl")]
    assert len(paths) == len(set(paths)) < 400
    assert [row["meaning"] for row in collected.rows("unread.jsonl")].count("more than 16 directories deep") == 1


def flatten(directory: Path) -> None:
    """Remove a chain of directories that is too deep for whoever goes down by recursion, as pytest does."""
    while (inner := directory / "deep").exists():
        inner.rename(directory.with_name("rest"))
        directory.rmdir()
        directory.with_name("rest").rename(directory)
    directory.rmdir()
