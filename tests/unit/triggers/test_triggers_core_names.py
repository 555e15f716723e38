"""Whose core it is, by its name and the files beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.host.corepattern import CorePattern
from collector.triggers.core_names import identify

PATTERN = CorePattern("/c/core.%e.%p", uses_pid=False)
BOOT = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def dir_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "writer", "pid", "uid", "comm"),
    [
        (f"/c/core.engine.1000.{BOOT}.77.1700000000000000.zst", "systemd", 77, 1000, "engine"),
        (f"/c/core.a.b.1.0.{BOOT}.77.1700000000000000", "systemd", 77, 0, "a.b.1"),
        (f"/c/core.x.99999999999.{BOOT}.77.1700000000000000", "unknown", None, None, None),
        ("/c/_usr_bin_engine.1000.crash", "apport", None, 1000, "engine"),
        ("/c/_opt_my_app.0.crash", "apport", None, 0, "app"),
        ("/c/core.engine.77", "kernel", 77, None, "engine"),
        ("/c/core.dump", "unknown", None, None, None),
    ],
)
def test_core_names_tell_the_writer(
    dir_fd: int, path: str, writer: str, pid: int | None, uid: int | None, comm: str | None
) -> None:
    """By the form of the name, without opening the file."""
    found, core = identify(path, -1, dir_fd, PATTERN)
    assert (found, core.pid or core.inner_pid, core.uid, core.comm) == (writer, pid, uid, comm)


@pytest.mark.parametrize("zeros", [0, 6, 12])
@pytest.mark.parametrize("suffix", ["", ".zst", ".xz", ".lz4", ".gz", ".bz2"])
def test_core_names_of_systemd_229_to_246_have_too_many_zeros(dir_fd: int, zeros: int, suffix: str) -> None:
    """They end in ``000000000000`` after the seconds, which later versions write as microseconds."""
    path = f"/c/core.a.7.{BOOT}.42.1700000000000000{'0' * zeros}{suffix}"
    writer, core = identify(path, -1, dir_fd, PATTERN)
    assert (writer, core.pid, core.uid, core.comm, core.at_s) == ("systemd", 42, 7, "a", 1_700_000_000)


@pytest.mark.parametrize("time", ["1700000000", "1700000000123456", "1700000000000000"])
def test_core_names_take_systemds_attribute_in_seconds_or_microseconds(tmp_path: Path, dir_fd: int, time: str) -> None:
    """Versions that append zeros to the name have another number of them in the attribute."""
    path = tmp_path / f"core.a.7.{BOOT}.42.1800000000000000000000"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.setxattr(path, "user.coredump.timestamp", time.encode())
        assert identify(str(path), fd, dir_fd, PATTERN)[1].at_s == 1_700_000_000
    except OSError:
        pytest.skip("this file system has no user attributes")
    finally:
        os.close(fd)


@pytest.mark.parametrize("time", ["9" * 22, "1700000000123456" + "0" * 14, "0" * 40])
def test_core_names_with_another_number_at_their_end_are_not_systemds(dir_fd: int, time: str) -> None:
    """No version of systemd writes such a time."""
    assert identify(f"/c/core.a.7.{BOOT}.42.{time}", -1, dir_fd, PATTERN)[0] == "unknown"


def test_core_names_read_no_planted_element(tmp_path: Path, dir_fd: int) -> None:
    """abrt's small files are read as regular files only, and numbers are numbers."""
    (tmp_path / "pid").symlink_to("/proc/self/stat")
    os.mkfifo(tmp_path / "uid")
    (tmp_path / "time").write_text("9" * 400)
    (tmp_path / "executable").mkdir()
    writer, core = identify(str(tmp_path / "coredump"), -1, dir_fd, PATTERN)
    assert writer == "abrt"
    assert (core.pid, core.uid, core.at_s, core.exe) == (None, None, None, None)


@pytest.mark.root
def test_core_names_believe_elements_of_root_and_of_the_cores_owner_only(tmp_path: Path, dir_fd: int) -> None:
    """Whoever owns a directory can put elements of his own beside a core of root's, or give everybody the pen."""
    for name, uid, mode in (
        ("coredump", 0, 0o600),
        ("global_pid", 65534, 0o600),
        ("uid", 0, 0o666),
        ("time", 0, 0o644),
    ):
        (tmp_path / name).write_text("41", encoding="utf-8")
        (tmp_path / name).chmod(mode)
        os.chown(tmp_path / name, uid, uid)
    fd = os.open(tmp_path / "coredump", os.O_RDONLY)
    try:
        _, core = identify(str(tmp_path / "coredump"), fd, dir_fd, PATTERN)
        assert (core.pid, core.uid, core.at_s) == (None, None, 41)
        os.fchown(fd, 65534, 65534)
        _, core = identify(str(tmp_path / "coredump"), fd, dir_fd, PATTERN)
        assert (core.pid, core.uid, core.at_s) == (41, None, 41)
    finally:
        os.close(fd)
