from __future__ import annotations

import os
from pathlib import Path

import pytest

from collector.host.files import PIECE, body, open_beneath, open_regular
from collector.model.artifact import Truncated
from collector.model.errors import StepError


def open_file(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def refuse() -> None:
    raise StepError("no")


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_body_returns_the_whole_file_when_it_fits(tmp_path: Path, size: int) -> None:
    """At exactly the limit nothing is cut, and nothing is reported as cut."""
    data = os.urandom(size)
    content = body(open_file(tmp_path / "file", data), limit=max(size, 1))
    assert (content if isinstance(content, bytes) else b"".join(content)) == data


def test_body_ends_truncated_when_there_is_more(tmp_path: Path) -> None:
    """What was left out is reported."""
    content = body(open_file(tmp_path / "file", b"x" * 2 * PIECE), limit=PIECE + 5)
    assert not isinstance(content, bytes)
    assert [len(next(content)), len(next(content))] == [PIECE, 5]
    with pytest.raises(Truncated, match="first 65541 bytes"):
        next(content)


def test_body_of_a_small_limit_ends_truncated(tmp_path: Path) -> None:
    """A limit below one piece cuts too."""
    content = body(open_file(tmp_path / "file", b"x" * 20), limit=10)
    assert not isinstance(content, bytes)
    with pytest.raises(Truncated):
        list(content)


def test_body_withholds_a_piece_that_the_check_refuses(tmp_path: Path) -> None:
    """Bytes are checked after they were read and before they are passed on."""
    with pytest.raises(StepError):
        body(open_file(tmp_path / "file", b"secret"), limit=100, check=refuse)


def test_body_stops_before_the_piece_that_the_check_refuses(tmp_path: Path) -> None:
    """Earlier pieces are kept; the stream ends truncated."""
    answers = iter([None, refuse])

    def check() -> None:
        answer = next(answers)
        if answer is not None:
            answer()

    content = body(open_file(tmp_path / "file", b"a" * PIECE + b"b" * PIECE), limit=1 << 20, check=check)
    assert not isinstance(content, bytes)
    assert next(content) == b"a" * PIECE
    with pytest.raises(Truncated, match="no"):
        next(content)


def test_body_closes_its_descriptor_when_nobody_reads_on(tmp_path: Path) -> None:
    """A worker that gives up on an artifact leaks nothing."""
    before = os.listdir("/proc/self/fd")
    content = body(open_file(tmp_path / "file", b"x" * 3 * PIECE), limit=1 << 20)
    del content
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    "path", ["link", "inner/../file", "../file", "fifo", "inner", "dirlink/file", "", "/file", "a//b"]
)
def test_open_beneath_refuses_what_leads_elsewhere(tmp_path: Path, path: str) -> None:
    """A symlink, a FIFO, a directory, a path out of the directory: none is opened."""
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("secret")
    (root / "file").write_text("mine")
    (root / "link").symlink_to("file")
    (root / "dirlink").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    fd = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises((OSError, StepError)):
            open_beneath(fd, path)
    finally:
        os.close(fd)


def test_open_beneath_opens_a_file_in_a_directory(tmp_path: Path) -> None:
    """The plain case."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")
    fd = os.open(tmp_path, os.O_RDONLY)
    inner = open_beneath(fd, "a/b/c")
    assert os.read(inner, 5) == b"x"
    os.close(inner)
    os.close(fd)


def test_open_regular_does_not_block_on_a_fifo(tmp_path: Path) -> None:
    """The open returns although nobody writes to the FIFO."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StepError, match="FIFO"):
        open_regular(str(tmp_path / "fifo"))
