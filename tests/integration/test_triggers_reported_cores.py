"""Cores that are compressed, moved or appended to after their event: one marker, whatever program did it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import fake_core
import pytest
from machine import need
from watching import drain, told, trigger_context

from collector.model.marker import Marker
from collector.triggers import core_files
from collector.triggers.base import Watch
from collector.triggers.core_files import CoreFiles

CORE = fake_core.core(fake_core.crash(), loads=40)


@pytest.fixture(autouse=True)
def nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next `poll` decides what is undecided; a core that is too short waits forever."""
    monkeypatch.setattr(core_files, "DECIDE_S", 0.0)
    monkeypatch.setattr(core_files, "APPEND_S", 1e6)


@pytest.fixture
def notes() -> dict[str, str]:
    """What the trigger stores in the ledger."""
    return {}


@pytest.fixture
def crash_dir(tmp_path: Path) -> Path:
    for name in ("crash", "other", "unwatched"):
        (tmp_path / name).mkdir()
    return tmp_path / "crash"


@pytest.fixture
def watch(crash_dir: Path, notes: dict[str, str]) -> Iterator[Watch]:
    with closing(opened(crash_dir, notes)) as watch:
        yield watch


def opened(crash_dir: Path, notes: dict[str, str]) -> Watch:
    paths = (str(crash_dir), str(crash_dir.with_name("other")))
    watch = CoreFiles(paths=paths).open(trigger_context(crash_dir.parent, notes=notes))
    assert told(watch.poll()) == []
    return watch


def seen(watch: Watch) -> list[str]:
    """Return the names of all markers, after what is undecided was decided."""
    markers: list[Marker] = [*drain(watch), *told(watch.poll()), *told(watch.poll())]
    return [os.path.basename(marker.core.path) for marker in markers if marker.core]


def shell(command: str, directory: Path) -> None:
    need(command.split()[0])
    subprocess.run(["sh", "-ec", command], cwd=directory, check=True)


COMPRESSING = {
    "zstd": "zstd -q --rm core.1",
    "zstd-keep": "zstd -q core.1",
    "gzip": "gzip core.1",
    "gzip-without-time": "gzip -c core.1 > core.1.gz; rm core.1",
    "xz": "xz -0 core.1",
    "bzip2": "bzip2 core.1",
    "lz4": "lz4 -q --rm core.1 core.1.lz4",
    "through-a-temporary-name": "zstd -q core.1 -o tmp; mv tmp core.1.zst; rm core.1",
    "into-another-directory": "zstd -q --rm core.1 -o ../other/core.1.zst",
    "and-moved": "gzip core.1; mv core.1.gz ../other/",
}
MOVING = {
    "renamed": "mv core.1 core.engine.1",
    "to-another-directory": "mv core.1 ../other/core.2",
    "away-and-back": "mv core.1 ../unwatched/; mv ../unwatched/core.1 core.3",
    "touched": "touch core.1",
    "copied": "cp -p core.1 ../other/",
    "rotated": "mv core.1 core.1.old; gzip core.1.old",
}


@pytest.mark.parametrize("command", [*COMPRESSING.values(), *MOVING.values()], ids=[*COMPRESSING, *MOVING])
@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_core_that_is_compressed_or_moved_is_reported_once(
    watch: Watch, crash_dir: Path, notes: dict[str, str], command: str, restarted: bool
) -> None:
    """By a cron job, a handler or a person; also while the daemon is down."""
    (crash_dir / "core.1").write_bytes(CORE)
    assert seen(watch) == ["core.1"]
    shell(command, crash_dir)
    if restarted:
        with closing(opened(crash_dir, notes)) as again:
            assert seen(again) == []
    else:
        assert seen(watch) == []


@pytest.mark.parametrize("tool", ["zstd -q --rm", "gzip"])
def test_core_is_reported_once_per_crash_when_each_is_compressed(watch: Watch, crash_dir: Path, tool: str) -> None:
    """The same names again and again, whether or not the site has removed the last one."""
    for number in range(4):
        (crash_dir / "core").write_bytes(CORE.replace(b"engine", b"crash%d" % number))
        assert seen(watch) == ["core"]
        shell(f"{tool} -f core", crash_dir)
        assert seen(watch) == []
        if number % 2:
            shell("rm -f core.*", crash_dir)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_core_that_is_moved_to_another_file_system_is_reported_once(watch: Watch, crash_dir: Path, kind: str) -> None:
    """`mv` copies it and keeps its time; the name may change."""
    from copying_fixtures import file_system, mounted

    other = crash_dir.with_name("other")
    with mounted("test", other, "tmpfs", "size=4m") if kind == "tmpfs" else file_system(crash_dir.parent, kind) as disk:
        if kind != "tmpfs":
            subprocess.run(["mount", "--bind", disk, other], check=True)
        try:
            assert seen(watch) == []
            (crash_dir / "core.1").write_bytes(CORE)
            assert seen(watch) == ["core.1"]
            shell("mv core.1 ../other/core.engine", crash_dir)
            assert seen(watch) == []
        finally:
            if kind != "tmpfs":
                subprocess.run(["umount", other], check=True)


def test_core_that_is_appended_to_in_rounds_is_reported_when_it_is_whole(watch: Watch, crash_dir: Path) -> None:
    """Its headers say how long it is; a round may end within them."""
    for end in (10, 60, 300, 5000, 100_000):
        with open(crash_dir / "core.1", "ab") as core:
            core.write(CORE[core.tell() : end])
        assert seen(watch) == []
    with open(crash_dir / "core.1", "ab") as core:
        core.write(CORE[core.tell() :])
    assert seen(watch) == ["core.1"]


def test_core_that_begins_as_an_empty_file_is_reported_when_it_is_written(watch: Watch, crash_dir: Path) -> None:
    """`install -m 600 /dev/null core; cat >> core`; one that stays empty is reported at the second look."""
    (crash_dir / "core.1").touch()
    (crash_dir / "core.2").touch()
    assert drain(watch) == []
    (crash_dir / "core.1").write_bytes(b"not even a core")
    assert seen(watch) == ["core.1", "core.2"]


def test_core_that_is_emptied_is_no_new_crash(watch: Watch, crash_dir: Path) -> None:
    """A clean-up job may truncate files that others hold open; the next crash is written to the same file."""
    path = crash_dir / "core.engine"
    for number in range(3):
        path.write_bytes(b"core %d" % number)
        assert seen(watch) == ["core.engine"]
        path.write_bytes(b"")
        assert seen(watch) == []


def test_core_that_stays_too_short_was_cut_off(watch: Watch, crash_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported once nothing was appended for a while; if more comes after all, it is the same crash."""
    (crash_dir / "core.1").write_bytes(CORE[:-100])
    assert seen(watch) == []
    monkeypatch.setattr(core_files, "APPEND_S", 0.0)
    assert seen(watch) == ["core.1"]
    with open(crash_dir / "core.1", "ab") as core:
        core.write(CORE[-100:])
    assert seen(watch) == []


def test_core_that_was_cut_off_before_the_start_is_not_waited_for(crash_dir: Path, notes: dict[str, str]) -> None:
    """Nobody appends to a file that has not changed for ten minutes."""
    (crash_dir / "core.1").write_bytes(CORE[:-100])
    moment = (crash_dir / "core.1").stat().st_mtime - 600
    os.utime(crash_dir / "core.1", (moment, moment))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_files, "APPEND_S", 10.0)
        with closing(opened(crash_dir, notes)) as watch:
            assert seen(watch) == ["core.1"]


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def replace(path: Path, data: bytes) -> None:
    """As the kernel does: it removes the file that has the name."""
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("write", [rewrite, replace])
def test_core_of_the_next_crash_is_reported_under_the_same_name(
    watch: Watch, crash_dir: Path, write: Callable[[Path, bytes], None]
) -> None:
    """Same length, another process: longer, shorter and equal ones, within one tick of the clock."""
    path = crash_dir / "core"
    path.write_bytes(CORE)
    assert seen(watch) == ["core"]
    for data in (CORE.replace(b"engine", b"worker"), CORE + b"more", CORE, CORE[:100]):
        write(path, data if data in (CORE, CORE[:100]) else data.replace(b"engine", b"threat"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core_files, "APPEND_S", 0.0)
            assert seen(watch) == ["core"]


def test_core_is_not_taken_for_another_of_the_same_size_and_time(watch: Watch, crash_dir: Path) -> None:
    """Two crashes within one tick: names, owners and contents differ."""
    names = ["core.1", "core.2"]
    for name in names:
        (crash_dir / name).write_bytes(CORE.replace(b"engine", name.encode()))
        os.utime(crash_dir / name, ns=(10**18, 10**18))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_files, "APPEND_S", 0.0)
        assert sorted(seen(watch)) == names


@pytest.mark.root
def test_core_of_another_user_is_never_taken_for_one_that_was_compressed(watch: Watch, crash_dir: Path) -> None:
    """Nobody's file named like root's core, with its time, is nobody's crash."""
    (crash_dir / "core.1").write_bytes(CORE)
    assert seen(watch) == ["core.1"]
    planted = crash_dir / "planted"
    shutil.copyfile(crash_dir / "core.1", planted)
    shutil.copystat(crash_dir / "core.1", planted)
    os.chown(planted, 65_534, 65_534)
    planted.rename(crash_dir / "core.1.gz")
    assert seen(watch) == ["core.1.gz"]


@pytest.mark.root
def test_core_of_root_is_not_hidden_by_what_another_user_has_planted(watch: Watch, crash_dir: Path) -> None:
    """A file named like root's next core before it was compressed, and removed in time."""
    planted = crash_dir / "planted"
    planted.write_bytes(b"x")
    os.chown(planted, 65_534, 65_534)
    planted.rename(crash_dir / "core.engine")
    assert seen(watch) == ["core.engine"]
    (crash_dir / "core.engine").unlink()
    (crash_dir / "core.engine.gz").write_bytes(b"root's")
    assert seen(watch) == ["core.engine.gz"]


@pytest.mark.root
@pytest.mark.parametrize("command", ["gzip core.1", "zstd -q --rm core.1", "xz -0 core.1"])
def test_core_of_a_user_is_known_when_root_has_compressed_it(watch: Watch, crash_dir: Path, command: str) -> None:
    """As a cron job does; these programs keep owner and time."""
    planted = crash_dir / "planted"
    planted.write_bytes(CORE)
    os.chown(planted, 65_534, 65_534)
    planted.rename(crash_dir / "core.1")
    assert seen(watch) == ["core.1"]
    shell(command, crash_dir)
    assert seen(watch) == []


def test_core_that_is_being_written_again_is_left_to_its_next_close(watch: Watch, crash_dir: Path) -> None:
    """A handler may begin with the next crash before the event of the last one is read."""
    path = crash_dir / "core"
    path.write_bytes(b"the last crash")
    with path.open("wb") as core:
        core.write(b"the next")
        core.flush()
        assert seen(watch) == []
    assert seen(watch) == ["core"]


def test_cores_that_were_reported_are_remembered_within_bounds(
    watch: Watch, crash_dir: Path, notes: dict[str, str]
) -> None:
    """The newest survive a restart."""
    for number in range(300):
        (crash_dir / f"core.{number}").write_bytes(CORE.replace(b"engine", b"%06d" % number))
    assert len(seen(watch)) == 300
    assert len([key for key in notes if ".cores." in key]) == 128
    for number in range(172, 300):
        path = crash_dir / f"core.{number}"
        path.with_name(f"core.{number}.gz").write_bytes(b"compressed")
        shutil.copystat(path, path.with_name(f"core.{number}.gz"))
        path.unlink()
    with closing(opened(crash_dir, notes)) as again:
        assert not [name for name in seen(again) if name.endswith(".gz")]


@pytest.mark.root
@pytest.mark.parametrize("away", ["../unwatched/core", "core.9", "gone"])
def test_core_that_is_moved_before_its_close_is_read_is_reported_once(
    watch: Watch, crash_dir: Path, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its handle; if it has a better name by then, under that; a file that was deleted is none."""
    monkeypatch.setattr(core_files, "DECIDE_S", 1e6)
    with (crash_dir / "core.tmp").open("wb") as core:
        core.write(CORE)
        core.flush()
        assert seen(watch) == []
    (crash_dir / "core.tmp").rename(crash_dir / away)
    if away == "gone":
        (crash_dir / away).unlink()
    assert seen(watch) == (["core.9"] if away == "core.9" else [])
    monkeypatch.setattr(core_files, "DECIDE_S", 0.0)
    assert seen(watch) == (["core.tmp"] if away.startswith("..") else [])


def test_core_of_a_removed_one_s_inode_is_another_crash(crash_dir: Path, watch: Watch, notes: dict[str, str]) -> None:
    """File systems give a free inode out again at once, and cores of one program may begin alike."""
    core = crash_dir / "core.engine"
    core.write_bytes(CORE)
    assert seen(watch) == ["core.engine"]
    core.write_bytes(CORE)
    assert seen(watch) == [], "touched"
    info = core.stat()
    watch.cores_removed(frozenset({(info.st_dev, info.st_ino)}), "others stay")
    assert watch.degraded == "others stay"
    core.write_bytes(CORE)
    assert seen(watch) == ["core.engine"]
    watch.cores_removed(frozenset({(info.st_dev, info.st_ino)}), None)
    assert watch.degraded is None
    with closing(opened(crash_dir, notes)) as again:
        core.write_bytes(CORE)
        assert seen(again) == ["core.engine"], "also after a restart"
