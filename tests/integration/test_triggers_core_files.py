"""Core files: the real kernel's cores, real inotify, real directories that come and go."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from machine import core_pattern
from watching import told

from collector.host.files import Host
from collector.model.marker import Marker, MarkerKind
from collector.model.text import printable
from collector.triggers import core_files, directory_table
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.core_files import CoreFiles

NOBODY = 65534
root = pytest.mark.root


@pytest.fixture
def ctx(tmp_path: Path) -> TriggerContext:
    return TriggerContext(
        id="cores",
        host=Host(),
        ignore=(str(tmp_path / "archive"),),
        runtime_directory=str(tmp_path),
        remember=lambda _key, _text: None,
        recall=lambda _key: None,
    )


@pytest.fixture
def crash_dir(tmp_path: Path) -> Path:
    (tmp_path / "crash").mkdir()
    return tmp_path / "crash"


Opener = Callable[..., Watch]


@pytest.fixture
def watching(ctx: TriggerContext, crash_dir: Path) -> Iterator[Opener]:
    opened: list[Watch] = []

    def start(**options: object) -> Watch:
        watch = CoreFiles(**{"paths": (str(crash_dir),), **options}).open(ctx)  # type: ignore[arg-type]
        opened.append(watch)
        assert told(watch.poll()) == []
        return watch

    yield start
    for watch in opened:
        watch.close()


def drain(watch: Watch, *, wait_s: float = 0.05) -> list[Marker]:
    """What the daemon does: call `read` while the descriptor is readable."""
    markers = []
    while select.select([watch], [], [], wait_s)[0]:
        markers += told(watch.read())
    return markers


def names(markers: list[Marker]) -> list[str]:
    return [os.path.basename(marker.core.path) for marker in markers if marker.core]


def test_core_files_gives_one_marker_when_a_file_is_closed(watching: Opener, crash_dir: Path) -> None:
    """IN_CLOSE_WRITE is the moment at which a core is complete."""
    watch = watching()
    with open(crash_dir / "core.1", "wb") as core:
        core.write(b"x")
        core.flush()
        assert drain(watch) == []
    (marker,) = drain(watch)
    info = os.stat(crash_dir / "core.1")
    assert marker.kind is MarkerKind.CORE_FILE
    assert marker.core is not None
    assert (marker.core.device, marker.core.inode, marker.core.size_bytes) == (info.st_dev, info.st_ino, 1)


def test_core_files_gives_a_marker_when_a_file_is_renamed_into_place(watching: Opener, crash_dir: Path) -> None:
    """IN_MOVED_TO: many handlers write under a temporary name."""
    watch = watching()
    (crash_dir / "tmp.1").write_bytes(b"x")
    assert drain(watch) == []
    (crash_dir / "tmp.1").rename(crash_dir / "core.1")
    assert names(drain(watch)) == ["core.1"]


def link_unnamed(crash_dir: Path, name: str, data: bytes) -> int:
    """As systemd-coredump: fill a file without a name, then give it one. Returns the descriptor, still open."""
    fd = os.open(crash_dir, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, data)
    here = os.open("/", os.O_PATH)  # with a directory descriptor, os.link uses linkat(2), which can follow
    try:
        os.link(f"/proc/self/fd/{fd}", crash_dir / name, src_dir_fd=here, follow_symlinks=True)
    finally:
        os.close(here)
    return fd


def test_core_files_gives_a_marker_when_a_file_appears_by_linkat(watching: Opener, crash_dir: Path) -> None:
    """No close is ever reported under the name of an O_TMPFILE: the kernel calls it #INODE."""
    watch = watching()
    fd = link_unnamed(crash_dir, "core.1", b"x")
    assert drain(watch) == []
    os.close(fd)
    assert names(drain(watch)) == ["core.1"]


def test_core_files_finds_files_from_before_the_start(watching: Opener, crash_dir: Path) -> None:
    """The crash that took the daemon down must not be missed; an open file is left until it is complete."""
    (crash_dir / "core.1").write_bytes(b"x")
    (crash_dir / "other").write_bytes(b"x")
    os.utime(crash_dir / "core.1")
    (crash_dir / "core.old").write_bytes(b"x")
    os.utime(crash_dir / "core.old", (1, 1))
    with open(crash_dir / "core.2", "wb") as unfinished:
        unfinished.write(b"x")
        unfinished.flush()
        watch = watching()
        assert names(drain(watch)) == ["core.1"]
    assert names(drain(watch)) == ["core.2"]


def test_core_files_watches_a_directory_that_appears_later(watching: Opener, crash_dir: Path) -> None:
    """/var/crash may be created by the first crash; it may also be removed, and come back."""
    crash_dir.rmdir()
    watch = watching()
    for attempt in ("core.1", "core.2"):
        crash_dir.mkdir()
        (crash_dir / attempt).write_bytes(b"x")
        assert told(watch.poll()) == []
        assert names(drain(watch)) == [attempt]
        (crash_dir / attempt).unlink()
        crash_dir.rmdir()
        assert drain(watch) == []


def test_core_files_follows_a_directory_that_is_replaced(watching: Opener, crash_dir: Path) -> None:
    """The new directory at the path counts, not the inode that was moved away."""
    watch = watching()
    crash_dir.rename(crash_dir.with_name("old"))
    crash_dir.mkdir()
    (crash_dir / "core.1").write_bytes(b"x")
    (crash_dir.with_name("old") / "core.2").write_bytes(b"x")
    assert names(drain(watch)) == ["core.1"]


def test_core_files_opens_no_file_through_a_path_that_changed(watching: Opener, tmp_path: Path) -> None:
    """No event reports that a parent was renamed: what happens in the old directory says nothing about the new one."""
    (tmp_path / "a" / "crash").mkdir(parents=True)
    watch = watching(paths=(str(tmp_path / "a" / "crash"),))
    assert drain(watch) == []
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a" / "crash").mkdir(parents=True)
    (tmp_path / "a" / "crash" / "core.1").touch()
    os.utime(tmp_path / "a" / "crash" / "core.1", (1, 1))
    (tmp_path / "b" / "crash" / "core.1").write_bytes(b"x")
    assert drain(watch) == []
    assert told(watch.poll()) == []
    (tmp_path / "a" / "crash" / "core.2").write_bytes(b"x")
    assert names(drain(watch)) == ["core.2"]


@pytest.mark.root
def test_core_files_follows_a_mount_over_the_directory(watching: Opener, crash_dir: Path) -> None:
    """A disk for cores may be mounted, and unmounted, under a running daemon."""
    watch = watching()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "collector-test", crash_dir], check=True)
    try:
        (crash_dir / "core.1").write_bytes(b"x")
        assert told(watch.poll()) == []
        assert names(drain(watch)) == ["core.1"]
    finally:
        subprocess.run(["umount", crash_dir], check=True)  # a held descriptor would make this EBUSY
    drain(watch)
    (crash_dir / "core.2").write_bytes(b"x")
    assert names(drain(watch)) == ["core.2"]


def test_core_files_scans_again_when_the_queue_overflows(watching: Opener, crash_dir: Path) -> None:
    """After IN_Q_OVERFLOW events are missing, but the files are still there."""
    watch = watching()
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    count = queued // 2 + 50  # two events each
    for number in range(count):
        os.close(os.open(crash_dir / f"core.{number}", os.O_CREAT | os.O_WRONLY))
    assert watch.lost == 0
    found = {marker.core.inode for marker in drain(watch) if marker.core}
    found |= {marker.core.inode for _ in range(2) for marker in told(watch.poll()) if marker.core}
    assert watch.lost == 1
    assert len(found) == count


def test_core_files_read_is_bounded(watching: Opener, crash_dir: Path) -> None:
    """The loop must go on between the batches of a large scan."""
    for number in range(600):
        (crash_dir / f"core.{number}").write_bytes(b"x")
    watch = watching()
    piece = told(watch.read())
    assert 0 < len(piece) <= 256
    assert len(piece) + len(drain(watch)) == 600


def test_core_files_watches_subdirectories_within_the_depth(watching: Opener, crash_dir: Path) -> None:
    """A new subdirectory is watched, and what it already holds is found; abrt renames a whole directory."""
    watch = watching(recursive=1, match=("coredump",))
    problem = crash_dir / "ccpp-2026-01-02-03:04:05-77.new"
    problem.mkdir()
    for name, text in {
        "coredump": "x",
        "global_pid": "4000077",
        "uid": "1000",
        "executable": "/usr/bin/engine",
    }.items():
        (problem / name).write_text(text)
    assert drain(watch) == []
    problem.rename(problem.with_suffix(""))
    (marker,) = drain(watch)
    assert marker.attributes["writer"] == "abrt"
    assert marker.process is not None
    assert (marker.process.pid, marker.comm, marker.exe) == (4_000_077, "engine", "/usr/bin/engine")


def test_core_files_ignores_the_archive(watching: Opener, tmp_path: Path) -> None:
    """A collected core is not a new crash, even through a symlink to the archive."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "archive")
    watch = watching(paths=(str(tmp_path / "alias"), str(tmp_path / "archive")))
    (tmp_path / "archive" / "core.1").write_bytes(b"x")
    assert drain(watch) == []


def test_core_files_refuses_anything_but_regular_files(
    watching: Opener, crash_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is opened through a planted name, and the attempt is recorded."""
    monkeypatch.setattr(core_files, "DECIDE_S", 0.0)  # a second name may be about to go
    watch = watching()
    os.mkfifo(crash_dir / "core.fifo")
    (crash_dir / "core.link").symlink_to("/etc/shadow")
    (crash_dir / "target").write_bytes(b"x")
    os.link(crash_dir / "target", crash_dir / "core.hard")
    markers = drain(watch)
    assert sorted(names(markers)) == ["core.fifo", "core.hard", "core.link"]
    assert all(marker.refused for marker in markers)


def test_core_files_takes_a_core_that_is_published_by_a_link(watching: Opener, crash_dir: Path) -> None:
    """`ln .core.tmp core.x && rm .core.tmp`: the second name goes within moments."""
    watch = watching()
    (crash_dir / ".core.tmp").write_bytes(b"x")
    os.link(crash_dir / ".core.tmp", crash_dir / "core.x")
    assert told(watch.read()) == []
    (crash_dir / ".core.tmp").unlink()
    (marker,) = told(watch.poll())
    assert marker.refused is None


def test_core_files_survives_a_name_that_is_not_utf8(watching: Opener, crash_dir: Path) -> None:
    """pyinotify alone would raise, and lose every other event of that read."""
    watch = watching()
    (crash_dir / "core.1").write_bytes(b"x")
    with open(os.fsencode(crash_dir) + b"/core.\xff\x1b[2J", "wb") as core:
        core.write(b"x")
    (crash_dir / "core.2").write_bytes(b"x")
    assert names(drain(watch)) == ["core.1", printable(os.fsdecode(b"core.\xff\x1b[2J")), "core.2"]


@pytest.mark.root
@pytest.mark.parametrize("policy", ["attribute", "refuse"])
def test_core_files_holds_the_owner_to_account(watching: Opener, crash_dir: Path, policy: str) -> None:
    """A file of the user nobody is that user's crash, whatever its name claims."""
    name = f"core.engine.0.{'a' * 32}.1.1700000000000000"
    watch = watching(unprivileged=policy)
    (crash_dir / "tmp").write_bytes(b"x")
    os.chown(crash_dir / "tmp", NOBODY, NOBODY)
    (crash_dir / "tmp").rename(crash_dir / name)
    (marker,) = drain(watch)
    assert marker.uid == NOBODY
    assert (marker.refused is not None) == (policy == "refuse")
    if policy == "attribute":
        assert marker.attributes["claimed_uid"] == "0"


def test_core_files_reads_systemds_attributes(watching: Opener, crash_dir: Path) -> None:
    """They are exact, while the name is escaped and truncated."""
    watch = watching()
    fd = os.open(crash_dir, os.O_TMPFILE | os.O_RDWR)
    try:
        for key, value in {"pid": "4711", "signal": "11", "exe": "/opt/a b/engine", "comm": "engine main"}.items():
            os.setxattr(fd, f"user.coredump.{key}", value.encode())
    except OSError:
        pytest.skip("this file system has no user attributes")
    finally:
        os.close(fd)
    path = crash_dir / f"core.engine\\x20main.1000.{'a' * 32}.4711.1700000000000000.zst"
    path.with_name("tmp").write_bytes(b"x")
    for key, value in {"pid": "4711", "signal": "11", "exe": "/opt/a b/engine", "comm": "engine main"}.items():
        os.setxattr(path.with_name("tmp"), f"user.coredump.{key}", value.encode())
    path.with_name("tmp").rename(path)
    (marker,) = drain(watch)
    assert marker.attributes["writer"] == "systemd"
    assert marker.process is not None
    assert (marker.process.pid, marker.signal, marker.comm) == (4711, 11, "engine main")
    assert (marker.exe, marker.at_s) == ("/opt/a b/engine", 1_700_000_000.0)


@pytest.mark.root
def test_core_files_reads_a_kernel_core_by_the_pattern_in_force(watching: Opener, crash_dir: Path) -> None:
    """A real crash: PID, command, signal and uid as the kernel named them."""
    watch = watching()
    with core_pattern(f"{crash_dir}/core.%e.%P.%s.%u.%t"):
        child = subprocess.Popen(["sleep", "60"])
        resource.prlimit(child.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        child.send_signal(signal.SIGSEGV)
        child.wait()
        (marker,) = drain(watch, wait_s=1.0)
    assert marker.process is not None
    assert (marker.process.pid, marker.comm, marker.signal, marker.uid) == (child.pid, "sleep", signal.SIGSEGV, 0)
    assert abs(marker.at_s - time.time()) < 60


def test_core_files_watches_a_subdirectory_as_soon_as_it_can(
    ctx: TriggerContext, crash_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit was reached when it appeared: the status says so until there is room."""
    monkeypatch.setattr(directory_table, "MAX_DIRECTORIES", 2)
    for name in ("a", "b"):
        (crash_dir / name).mkdir()
    with closing(CoreFiles(paths=(str(crash_dir),), recursive=1).open(ctx)) as watch:
        for _ in range(2):
            assert told(watch.poll()) == []
            assert drain(watch) == []
            assert watch.degraded is not None
            assert "watched already" in watch.degraded
        watched = [directory.path for directory in watch.directories() if directory.inside]  # type: ignore[attr-defined]
        Path(watched[0]).rmdir()
        assert drain(watch) == []
        assert told(watch.poll()) == []
        assert watch.degraded is None
        (other,) = crash_dir.iterdir()
        (other / "core").write_bytes(b"x")
        assert len(drain(watch)) == 1


def test_core_files_notices_that_its_descriptor_is_gone(ctx: TriggerContext, crash_dir: Path) -> None:
    """It would see nothing any more, and nothing would wake the loop."""
    before = inotify_descriptors()
    with closing(CoreFiles(paths=(str(crash_dir),)).open(ctx)) as watch:
        assert told(watch.poll()) == []
        assert watch.gone is None
        (lost,) = inotify_descriptors() - before
        with open("/dev/null", "rb") as null:
            os.dup2(null.fileno(), lost)
        assert told(watch.poll()) == []
        assert watch.gone is not None


def inotify_descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify":
                found.add(int(name))
    return found
