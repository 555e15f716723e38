"""Watched directories of several users: what one of them plants costs nobody else anything."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from watching import drain, told, trigger_context

from collector.model.marker import Marker
from collector.triggers import core_files, directory_table
from collector.triggers.base import Watch
from collector.triggers.core_files import CoreFiles
from collector.triggers.exit_files import ExitFiles

pytestmark = pytest.mark.root
NOBODY, OTHER = 65534, 65533
MANY = 1100


def owned(path: Path, uid: int) -> Path:
    os.chown(path, uid, uid)
    return path


def directory(path: Path, uid: int) -> Path:
    path.mkdir()
    return owned(path, uid)


def file(path: Path, uid: int) -> Path:
    path.write_bytes(path.name.encode())
    return owned(path, uid)


def seen(markers: list[Marker]) -> list[str]:
    return sorted(os.path.basename(marker.core.path) for marker in markers if marker.core)


@contextmanager
def watching(tmp_path: Path, *paths: str, notes: dict[str, str] | None = None, recursive: int = 0) -> Iterator[Watch]:
    trigger = CoreFiles(paths=paths, recursive=recursive)
    with closing(trigger.open(trigger_context(tmp_path, notes=notes))) as watch:
        assert told(watch.poll()) == []
        assert drain(watch) == []
        yield watch


@pytest.mark.parametrize(
    ("pattern", "recursive"), [("*/d", 0), ("*", 0), ("", 1)], ids=["parents", "glob", "recursive"]
)
def test_directories_of_one_user_leave_room_for_everybody_elses(tmp_path: Path, pattern: str, recursive: int) -> None:
    """1,100 of one user are there first; those of root and of a third user, who come last, are watched."""
    spool = tmp_path / "spool"
    spool.mkdir()

    def plant(name: str, uid: int) -> Path:
        path = directory(spool / name, uid)
        return directory(path / "d", uid) if pattern == "*/d" else path

    for number in range(MANY):
        plant(f"a{number}", NOBODY)
    with watching(tmp_path, str(spool / pattern), recursive=recursive) as watch:
        for name, uid in (("zroot", 0), ("zother", OTHER)):
            path = plant(name, uid)
            assert [*told(watch.poll()), *drain(watch)] == []
            file(path / f"core.{name}", uid)
            assert seen(drain(watch)) == [f"core.{name}"]
        assert watch.degraded == "1024 directories are watched already: more of uid 65534 are not"


def test_directories_that_were_left_out_are_watched_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that had been watched and had to make room for another user's."""
    monkeypatch.setattr(directory_table, "MAX_DIRECTORIES", 2)
    for name in ("a", "b"):
        directory(tmp_path / name, NOBODY)
    with watching(tmp_path, str(tmp_path / "[abz]")) as watch:
        assert watch.degraded is None
        directory(tmp_path / "z", 0)
        assert [*told(watch.poll()), *drain(watch)] == []
        assert watch.degraded is not None
        (tmp_path / "z").rmdir()
        assert [*drain(watch), *told(watch.poll()), *drain(watch)] == []
        assert watch.degraded is None
        for name in ("a", "b"):
            file(tmp_path / name / f"core.{name}", NOBODY)
        assert seen(drain(watch)) == ["core.a", "core.b"]


def test_files_kept_open_by_one_user_displace_nobody_elses(tmp_path: Path) -> None:
    """systemd closes a core under another name than it linked it to: it is known only as one that was unfinished."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * MANY:
        pytest.skip("too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * MANY, hard))
    try:
        with watching(tmp_path, str(tmp_path)) as watch, ExitStack() as files:
            fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
            os.write(fd, b"core")
            os.link(f"/proc/self/fd/{fd}", tmp_path / "core.root", src_dir_fd=fd)
            assert drain(watch) == []
            for number in range(MANY):
                path = tmp_path / f"core.{number}"
                files.enter_context(path.open("wb"))
                owned(path, NOBODY)
            assert drain(watch) == []
            assert watch.lost == MANY + 1 - core_files.MAX_UNFINISHED
            os.close(fd)
            assert seen(drain(watch)) == ["core.root"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_cores_of_one_user_make_the_trigger_forget_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """What is moved or compressed later is still known as the core that was reported."""
    monkeypatch.setattr(core_files, "DECIDE_S", 0.0)
    notes: dict[str, str] = {}
    spool = tmp_path / "spool"
    spool.mkdir()
    with watching(tmp_path, str(spool), notes=notes) as watch:
        for name, uid in (("core.root", 0), ("core.other", OTHER)):
            file(spool / name, uid)
        assert seen(drain(watch)) == ["core.other", "core.root"]
        for number in range(MANY):
            file(tmp_path / "new", NOBODY).rename(spool / f"core.{number}")
        assert len([*drain(watch), *told(watch.poll())]) == MANY
        if not restarted:
            move(spool)
            assert [*drain(watch), *told(watch.poll())] == []
    if restarted:
        move(spool)
        for path in spool.glob("core.[0-9]*"):
            path.unlink()
        with watching(tmp_path, str(spool), notes=notes) as watch:
            assert [*told(watch.poll()), *told(watch.poll())] == []


def move(spool: Path) -> None:
    for name in ("core.root", "core.other"):
        (spool / name).rename(spool / f"{name}.old")


def test_scan_of_one_users_files_does_not_delay_another_users(tmp_path: Path) -> None:
    """A batch of each in turn: root's core is found long before the other's thousand."""
    for name, uid in (("a", NOBODY), ("b", 0)):
        directory(tmp_path / name, uid)
    for number in range(1000):
        file(tmp_path / "a" / f"core.{number}", NOBODY)
    file(tmp_path / "b" / "core.root", 0)
    with closing(CoreFiles(paths=(f"{tmp_path}/a", f"{tmp_path}/b")).open(trigger_context(tmp_path))) as watch:
        assert told(watch.poll()) == []
        found = [seen(told(watch.read())) for _ in range(2)]
    assert "core.root" in found[0] + found[1]


def test_watch_can_be_paused_between_any_two_files(tmp_path: Path) -> None:
    """The loop goes on with other things meanwhile: however many names there are, little happens between two pauses."""
    for number in range(3000):
        (tmp_path / f"x{number}").mkdir()
    trigger = ExitFiles(paths=(f"{tmp_path}/*/exits",))
    with closing(trigger.open(trigger_context(tmp_path))) as watch:
        assert sum(1 for _ in watch.poll()) >= 3000
    for number in range(3000):
        (tmp_path / f"x{number}").rmdir()
        (tmp_path / f"y{number}").touch()
    with closing(CoreFiles(paths=(str(tmp_path),)).open(trigger_context(tmp_path))) as watch:
        list(watch.poll())
        assert sum(1 for _ in watch.read()) >= 3000 // 64


def test_file_that_everybody_may_write_is_not_its_owners_word(tmp_path: Path) -> None:
    """Somebody had a second name of a log of root's that has lost its first one since."""
    drop = directory(tmp_path / "drop", NOBODY)
    log = tmp_path / "log"
    log.write_text("COMM=engine\nUID=0\n", encoding="utf-8")
    log.chmod(0o666)
    os.link(log, drop / "mine")
    log.unlink()
    with closing(ExitFiles(paths=(str(drop),)).open(trigger_context(tmp_path))) as watch:
        assert told(watch.poll()) == []
        (marker,) = drain(watch)
    assert marker.refused == "writable by everybody: it may not be its owner's word"


@pytest.mark.parametrize("separator", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_exit_file_has_lines_that_end_with_a_line_feed_only(tmp_path: Path, separator: str) -> None:
    """A process's name is one value, whatever it contains."""
    drop = directory(tmp_path / "drop", 0)
    (drop / "exit").write_text(f"COMM=a{separator}PID=1{separator}UID=0\n", encoding="utf-8", newline="")
    with closing(ExitFiles(paths=(str(drop),)).open(trigger_context(tmp_path))) as watch:
        assert told(watch.poll()) == []
        (marker,) = drain(watch)
    assert (marker.process, marker.uid, marker.refused) == (None, None, None)
    assert marker.comm is not None
    assert "PID=1" in marker.comm
