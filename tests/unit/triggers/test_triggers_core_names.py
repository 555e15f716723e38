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
    assert (found, core.pid, core.uid, core.comm) == (writer, pid, uid, comm)


def test_core_names_read_no_planted_element(tmp_path: Path, dir_fd: int) -> None:
    """abrt's small files are read as regular files only, and numbers are numbers."""
    (tmp_path / "pid").symlink_to("/proc/self/stat")
    os.mkfifo(tmp_path / "uid")
    (tmp_path / "time").write_text("9" * 400)
    (tmp_path / "executable").mkdir()
    writer, core = identify(str(tmp_path / "coredump"), -1, dir_fd, PATTERN)
    assert writer == "abrt"
    assert (core.pid, core.uid, core.at_s, core.exe) == (None, None, None, None)
