"""pyinotify, tamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.host import inotify, inotify_events
from collector.host.inotify import Inotify


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Inotify, Path]]:
    instance = Inotify()
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    instance.add(fd)
    os.close(fd)
    yield instance, tmp_path
    instance.close()


def test_inotify_reads_names_that_are_not_text(watched: tuple[Inotify, Path]) -> None:
    """pyinotify itself raises UnicodeDecodeError, and loses the other events of that read."""
    instance, path = watched
    os.close(os.open(os.fsencode(path) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    os.close(os.open(path / "b", os.O_CREAT | os.O_WRONLY))
    closed = [event.name for event in instance.read() if event.mask & inotify_events.CLOSE_WRITE]
    assert closed == [os.fsdecode(b"\xff"), "b"]


def test_inotify_reads_a_bounded_piece(watched: tuple[Inotify, Path]) -> None:
    """However long the queue is, the loop gets a turn between pieces."""
    instance, path = watched
    for number in range(3000):
        os.close(os.open(path / f"{number:0200}", os.O_CREAT | os.O_WRONLY))
    first = instance.read()
    assert 0 < len(first) <= inotify.READ_BYTES // 16
    rest = 0
    while piece := instance.read():
        rest += len(piece)
    assert len(first) + rest == 6000


def test_inotify_never_blocks_and_is_not_inherited(watched: tuple[Inotify, Path]) -> None:
    """The supervisor has one thread, and its workers must not hold its watches."""
    instance, _ = watched
    assert instance.read() == []
    assert fcntl.fcntl(instance.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
    assert fcntl.fcntl(instance.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_inotify_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyinotify's own WatchManager runs ldconfig: a fork, on a machine that may have no memory for one."""
    import subprocess

    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    Inotify().close()
    assert started == []


def test_inotify_watches_the_directory_behind_the_descriptor(tmp_path: Path) -> None:
    """Not whatever has its path by now."""
    (tmp_path / "a").mkdir()
    fd = os.open(tmp_path / "a", os.O_PATH | os.O_DIRECTORY)
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    instance = Inotify()
    instance.add(fd)
    os.close(fd)
    (tmp_path / "a" / "x").touch()
    (tmp_path / "b" / "y").touch()
    assert {event.name for event in instance.read()} == {"y"}
    instance.close()
