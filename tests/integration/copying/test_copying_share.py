"""Files kept without copying their bytes, on the file systems that can and on one that cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from copying_fixtures import MIB, cached, file_system, opened_directory

from collector.copying.rate.throttle import Stopped, always_go
from collector.copying.share import reflink
from collector.host import filesystem
from collector.model.artifact import Method
from collector.model.copying import Advice, CopyReport, Feedback

pytestmark = pytest.mark.root


@pytest.fixture(params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Path]:
    with file_system(scratch, request.param) as path:
        yield path


def shared(source: Path, directory: Path, name: str = "kept", ask: object = always_go) -> CopyReport:
    with opened_directory(directory) as target:
        fd = os.open(source, os.O_RDONLY)
        try:
            return reflink(fd, target.fd, name, rate="adaptive", ask=ask)  # type: ignore[arg-type]
        finally:
            os.close(fd)


def used_bytes(path: Path) -> int:
    os.sync()
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize("size", [0, 100, 4096, 32 * MIB + 333])
def test_reflink_keeps_a_file_as_it_is_whatever_becomes_of_the_source(disk: Path, size: int) -> None:
    """It takes no space, belongs to root alone, and is on the disk; the source may be rewritten or removed."""
    source = disk / "core"
    content = os.urandom(size)
    source.write_bytes(content)
    before = used_bytes(disk)
    report = shared(source, disk)
    assert used_bytes(disk) - before < MIB
    source.write_bytes(b"another crash")
    source.unlink()
    kept = disk / "kept"
    assert kept.read_bytes() == content
    assert (report.method, report.size_bytes) == (Method.REFLINK, size)
    assert (kept.stat().st_mode & 0o777, kept.stat().st_nlink) == (0o600, 1)


def test_reflink_writes_dirty_pages_back_at_the_rate_of_a_copy(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would do so at full speed; a page that is clean is not waited for."""
    source = disk / "core"
    source.write_bytes(os.urandom(8 * MIB))
    before = cached(source).dirty
    pieces: list[int] = []
    write_back = filesystem.write_back
    monkeypatch.setattr(
        "collector.copying.share.write_back", lambda fd, at, size: (pieces.append(at), write_back(fd, at, size))
    )
    shared(source, disk)
    shared(source, disk, "again")
    assert 0 < len(pieces) <= before // 256
    assert cached(source).dirty == 0


def test_reflink_stops_when_the_gate_says_so(disk: Path) -> None:
    """Nothing is left behind; the caller copies, which asks the gate again."""
    (disk / "core").write_bytes(os.urandom(8 * MIB))
    with pytest.raises(Stopped, match="enough"):
        shared(disk / "core", disk, ask=lambda: Feedback(Advice.STOP, "enough"))
    assert not [path for path in disk.iterdir() if path.name.startswith("kept")]


def test_reflink_says_that_a_file_system_cannot(scratch: Path) -> None:
    """On ext4, and from one file system to another; nothing is written back, and nothing is left behind."""
    with file_system(scratch, "ext4") as ext4, file_system(scratch, "xfs") as xfs:
        source = ext4 / "core"
        source.write_bytes(os.urandom(8 * MIB))
        for target in (ext4, xfs):
            with pytest.raises(OSError, match=r"not supported|cross-device"):
                shared(source, target)
        assert not [path for path in (*ext4.iterdir(), *xfs.iterdir()) if path.name.startswith("kept")]
