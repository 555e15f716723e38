"""Attacks by what a watched path leads to: symlinks, other directories, other files under the same name."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from configuration import MEMORY, config_of
from harness import NOBODY, Daemon, contents, status_of, wait_for
from machine import core_pattern

pytestmark = pytest.mark.root
RACE_S = 20.0
# An unguarded look loses such a race within a second; the long one is with the slow tests.
RACES = pytest.mark.parametrize("race_s", [4.0, pytest.param(RACE_S, marks=pytest.mark.slow)])
REFUSED = "is a symlink of user 65534, which is not followed"


def exits(path: Path | str) -> str:
    return f"{{id: told, type: exit_files, paths: ['{path}'], pipeline: crash}}"


@contextmanager
def race(racer: Path, name: Path, other: Path, *options: str) -> Iterator[None]:
    """Let nobody exchange two names during the block."""
    racing = subprocess.Popen([racer, name, other, *options], user=NOBODY, group=NOBODY, extra_groups=[])
    try:
        yield
        assert racing.poll() is None
    finally:
        racing.kill()
        racing.wait()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def theirs(path: Path) -> Path:
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return path


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    """A directory of root's, with files that could be exit files."""
    directory = tmp_path / "root/exits"
    directory.mkdir(mode=0o700, parents=True)
    for number in range(20):
        write(directory / f"settings{number}", "COMM=settings\n")
    return directory


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's directory, with one for exit files in it."""
    directory = tmp_path / "srv/app"
    (directory / "exits").mkdir(parents=True)
    for path in (directory.parent, directory, directory / "exits"):
        theirs(path)
    return directory


@pytest.mark.parametrize("glob", ["srv/app/exits", "srv/*/exits", "srv/app/e*"], ids=["path", "parent", "itself"])
def test_exit_files_of_root_stay_when_their_directory_becomes_another(
    daemon_factory: Callable[..., Daemon], tmp_path: Path, owned: Path, home: Path, glob: str
) -> None:
    """A symlink before the start, and again while it runs: nothing of root's is read or removed."""
    before, path, kept = contents(owned), home / "exits", home / "kept"

    def state() -> str:
        return status_of(daemon).triggers["told"]

    def swap() -> None:
        path.rename(kept)
        path.symlink_to(owned)
        theirs(path)

    def swap_back() -> None:
        path.unlink()
        kept.rename(path)

    def is_refused() -> bool:
        return REFUSED in state() or contents(owned) != before

    swap()
    daemon = daemon_factory(config_of(MEMORY, triggers=(exits(tmp_path / glob),)))
    wait_for(is_refused, "refusal of the symlink")
    swap_back()
    wait_for(lambda: state() == "watching", "look at the directory")
    theirs(write(path / "mine", "COMM=mine\n"))
    wait_for(lambda: not list(path.iterdir()), "removal of the user's own file")
    swap()
    wait_for(is_refused, "refusal of another symlink")
    assert contents(owned) == before
    assert {comm for (comm,) in daemon.ledger("json_extract(marker, '$.comm')")} == {"mine"}


@pytest.mark.slow
@pytest.mark.parametrize("swapped", ["exits", "app"])
def test_exit_files_of_root_stay_while_a_directory_is_exchanged(
    daemon_factory: Callable[..., Daemon], racer: Path, owned: Path, home: Path, swapped: str
) -> None:
    """Between any two looks the path may lead elsewhere, whichever of its components is a symlink then."""
    before = contents(owned)
    name, target = {"exits": (home / "exits", owned), "app": (home, owned.parent)}[swapped]
    other = name.with_name("other")
    other.symlink_to(target)
    daemon = daemon_factory(config_of(MEMORY, triggers=(exits(home / "exits"),)))
    with race(racer, name, theirs(other)):
        time.sleep(RACE_S)
    assert contents(owned) == before
    assert daemon.ledger("id") == []


@RACES
def test_exit_file_exchanged_for_one_of_roots_speaks_for_its_owner(
    daemon_factory: Callable[..., Daemon], racer: Path, home: Path, race_s: float
) -> None:
    """A hard link to a file that root owns and everybody may write: who is believed is who owns what was read."""
    roots = write(home / "log", "COMM=as-root\n")
    roots.chmod(0o666)
    os.link(roots, home / "link")
    theirs(write(home / "exits/mine", "COMM=mine\n"))
    trigger = exits(home / "exits").replace("pipeline:", "remove: false, pipeline:")
    daemon = daemon_factory(config_of(MEMORY, triggers=(trigger,)))
    with race(racer, home / "exits/mine", home / "link"):
        time.sleep(race_s)
    found = set(daemon.ledger("fate != 'refused', json_extract(marker, '$.comm'), json_extract(marker, '$.uid')"))
    assert (1, "mine", NOBODY) in found
    assert {one for one in found if one[0] and one != (1, "mine", NOBODY)} == set()


@RACES
def test_core_swapped_during_its_check_is_judged_by_the_opened_file(
    daemon_factory: Callable[..., Daemon], racer: Path, home: Path, race_s: float
) -> None:
    """What is judged is what was opened: a hard link to a file of root's is refused, whatever had its name before."""
    secret = write(home / "secret", "root's, and of a group")
    os.chown(secret, 0, NOBODY)
    secret.chmod(0o660)
    os.link(secret, home / "link")
    core = theirs(write(home / "exits/core", "x"))
    trigger = f"{{id: cores, type: core_files, paths: ['{home}/exits'], pipeline: crash}}"
    daemon = daemon_factory(config_of("{id: core, collector: core, with: {keep: none}}", triggers=(trigger,)))
    with core_pattern("core"), race(racer, core, home / "link", "write"):
        time.sleep(race_s)
    rows = daemon.ledger("json_extract(marker, '$.core.inode'), fate")
    assert {fate for inode, fate in rows if inode == secret.stat().st_ino} <= {"refused"}
    assert rows


@pytest.mark.parametrize(
    ("mode", "directory_uid", "stays"),
    [(0o755, 0, True), (0o1777, 0, False), (0o755, NOBODY, False), (0o555, NOBODY, True)],
    ids=["not writable", "sticky", "own", "own, not writable"],
)
def test_exit_file_stays_where_its_owner_may_not_remove_it(
    daemon_factory: Callable[..., Daemon], home: Path, mode: int, directory_uid: int, stays: bool
) -> None:
    """Root does not do for somebody what he may not do; his crash is collected all the same, once."""
    path = home / "exits"
    path.chmod(mode)
    os.chown(path, directory_uid, directory_uid)
    os.chown(home, 0, 0)
    os.chown(home.parent, 0, 0)
    theirs(write(path / "mine", "COMM=mine\n"))
    daemon = daemon_factory(config_of(MEMORY, triggers=(exits(path),)))
    daemon.wait_for_incidents(1)
    if stays:
        wait_for(lambda: "may not remove" in status_of(daemon).triggers["told"], "word of what stays")
    else:
        wait_for(lambda: not list(path.iterdir()), "removal")
    write(path / "roots", "COMM=roots\n")
    wait_for(lambda: not (path / "roots").exists(), "removal of root's")
    assert [file.name for file in path.iterdir()] == (["mine"] if stays else [])
    daemon.stop()
    daemon.start()
    if stays:
        wait_for(lambda: "may not remove" in status_of(daemon).triggers["told"], "the same word again")
    assert daemon.ledger("json_extract(marker, '$.comm')") == [("mine",), ("roots",)]


@pytest.mark.parametrize("how", ["directory", "symlink"])
def test_exit_files_of_root_stay_when_the_user_renames_roots_directory(
    daemon_factory: Callable[..., Daemon], home: Path, owned: Path, how: str
) -> None:
    """What root has in a user's directory, he can move to the path that is watched."""
    (home / "exits").rmdir()
    if how == "directory":
        owned.rename(home / "data")
    else:
        (home / "data").symlink_to(owned)
    daemon = daemon_factory(config_of(MEMORY, triggers=(exits(home / "exits"),)))
    subprocess.run(["mv", "-T", home / "data", home / "exits"], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
    wait_for(lambda: "degraded" in status_of(daemon).triggers["told"], "word of it")
    assert len(list((home / "exits").iterdir())) == 20
