"""Copies to disks that are full, read-only, failing, or of another file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from copying_fixtures import (
    BOUNCE,
    FAST,
    MIB,
    MMAP,
    SPLICE,
    copied,
    file_system,
    loop_device,
    mounted,
    opened_directory,
    overlay,
    run,
    same,
    scattered,
    segment,
)

from collector.copying import stream
from collector.host import filesystem
from collector.host.filesystem import cached_pages
from collector.model.artifact import Method
from collector.model.copying import CopySettings
from collector.model.errors import CopyError

pytestmark = pytest.mark.root


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file system of the matrix, and what a copy to it reports."""

    kind: str
    options: str = "rw"
    sector: int = 512
    direct: bool = True
    loop_direct: bool = True
    method: Method = Method.SPLICE
    nocow: bool = False
    extents: bool = True
    overlay: bool = False


MATRIX = {
    "ext4": Row(kind="ext4"),
    "ext4-journal": Row(kind="ext4", options="data=journal", direct=False),
    "ext4-4k-sectors": Row(kind="ext4", sector=4096),
    "ext4-loop-buffered": Row(kind="ext4", loop_direct=False, direct=False),
    "ext4-without-extents": Row(kind="ext4", extents=False, direct=False),
    "xfs": Row(kind="xfs"),
    "xfs-4k-sectors": Row(kind="xfs", sector=4096),
    "btrfs": Row(kind="btrfs", direct=False, method=Method.BOUNCE),
    "btrfs-nodatacow": Row(kind="btrfs", nocow=True, method=Method.BOUNCE),
    "overlay": Row(kind="ext4", overlay=True),
    "overlay-ext4-journal": Row(kind="ext4", options="data=journal", direct=False, overlay=True),
    "overlay-btrfs": Row(kind="btrfs", direct=False, method=Method.BOUNCE, overlay=True),
}


@contextlib.contextmanager
def destination(row: Row, scratch: Path) -> Iterator[Path]:
    with file_system(
        scratch,
        row.kind,
        options=row.options,
        sector=row.sector,
        direct=row.loop_direct,
        size=320 * MIB,
        features=() if row.extents else ("-O", "^extents,^64bit"),
    ) as point:
        path = point / "target"
        path.mkdir()
        if row.nocow:
            run("chattr", "+C", path)
        if not row.overlay:
            yield path
            return
        with overlay(point, point / "merged") as merged:
            yield merged


@pytest.mark.parametrize("name", MATRIX)
def test_copy_keeps_its_promises_on_every_file_system(scratch: Path, name: str) -> None:
    """Content, holes, an empty page cache, and a correct report about direct writes."""
    row = MATRIX[name]
    size = 128 * MIB + 333
    with (
        segment(size, pieces=[*scattered(128 * MIB, 40, 150_000), (size - 20, b"the end")]) as source,
        destination(row, scratch) as path,
        opened_directory(path) as target,
    ):
        for settings in (FAST, SPLICE, MMAP, BOUNCE):
            report = copied(source, target, settings.method, settings)
            copy = path / settings.method
            assert pages_in_cache(copy) == 0
            assert (report.direct, report.size_bytes) == (row.direct, size), report.direct_reason
            assert copy.stat().st_blocks * 512 <= report.data_bytes + report.extents * 4096
            assert same(source, copy)
            if settings is FAST:
                assert report.method is row.method, report.method_reason
        written = stream.write((os.urandom(100_000) for _ in range(30)), directory_fd=target.fd, name="stream")
        assert written.direct == row.direct
        assert pages_in_cache(path / "stream") == 0


def pages_in_cache(path: Path) -> int | None:
    """Count by mincore: through an overlay cachestat sees nothing."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return cached_pages(fd, 0, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def test_copy_keeps_few_dirty_pages_when_an_overlay_hides_a_fallback(scratch: Path) -> None:
    """Through an overlay sync_file_range does nothing; pages are written back and dropped all the same."""
    with (
        segment(64 * MIB) as source,
        file_system(scratch, "ext4", options="data=journal") as disk,
        overlay(disk, scratch / "merged") as merged,
        opened_directory(merged) as target,
    ):
        most = 0

        def progress(done: int) -> None:
            nonlocal most
            most = max(most, pages_in_cache(merged / "copy.part") or 0)

        report = copied(source, target, progress=progress)
    assert not report.direct
    assert most * 4096 <= 4 * MIB


def test_copy_refuses_an_overlay_in_memory(scratch: Path) -> None:
    """The root of a live system or a container can be an overlay whose upper layer is on tmpfs."""
    memory = scratch / "memory"
    memory.mkdir()
    with (
        segment(4 * MIB) as source,
        mounted("tmpfs", memory, "tmpfs", "size=64m"),
        overlay(memory, scratch / "merged") as merged,
    ):
        assert filesystem.holds_memory(str(merged))
        with opened_directory(merged) as target, pytest.raises(CopyError) as raised:
            copied(source, target)
        assert raised.value.errno == errno.EOPNOTSUPP
        assert raised.value.hint
        assert list(merged.iterdir()) == []


@pytest.mark.parametrize("settings", [FAST, MMAP, BOUNCE], ids=["auto", "mmap", "bounce"])
def test_copy_refuses_an_overlay_in_memory_that_it_cannot_see(scratch: Path, settings: CopySettings) -> None:
    """The upper layer is in another mount namespace: pages that no flush removes give it away."""
    memory = scratch / "memory"
    memory.mkdir()
    with segment(4 * MIB) as source, contextlib.ExitStack() as stack:
        run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", memory)
        try:
            merged = stack.enter_context(overlay(memory, scratch / "merged"))
        finally:
            run("umount", "-l", memory)
        assert not filesystem.holds_memory(str(merged))
        with opened_directory(merged) as target, pytest.raises(CopyError) as raised:
            copied(source, target, settings=settings)
        assert raised.value.errno == errno.EOPNOTSUPP
        assert list(merged.iterdir()) == []


def test_copy_finds_a_fallback_when_the_kernel_does_not_report_it(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.1 has no STATX_DIOALIGN and before 6.5 no cachestat: mincore is used."""
    monkeypatch.setattr("collector.host.syscalls.direct_alignment", lambda fd: None)
    for user in ("syscalls", "filesystem"):
        monkeypatch.setattr(f"collector.host.{user}.cachestat", lambda fd, **_: None)
    with (
        segment(16 * MIB) as source,
        file_system(scratch, "ext4", options="data=journal") as disk,
        opened_directory(disk) as target,
    ):
        report = copied(source, target)
        assert not report.direct
        assert pages_in_cache(disk / "copy") == 0


def test_copy_fails_before_the_first_byte_when_the_disk_is_full(small_disk: Path) -> None:
    """Reserving fails: nothing is written, nothing is left."""
    with segment(80 * MIB) as source, opened_directory(small_disk) as target:
        before = os.statvfs(small_disk).f_bfree
        with pytest.raises(CopyError) as raised:
            copied(source, target)
        assert raised.value.errno == errno.ENOSPC
        assert raised.value.hint
        assert "copy.part" not in target.names()
        assert os.statvfs(small_disk).f_bfree >= before - 16


def test_stream_keeps_what_came_before_the_disk_was_full(small_disk: Path) -> None:
    """A stream has no length to reserve: what fits is kept and marked truncated."""
    data = os.urandom(MIB)
    with opened_directory(small_disk) as target:
        report = stream.write((data for _ in range(100)), directory_fd=target.fd, name="stream")
    assert report.truncated
    assert "No space" in str(report.truncated_reason)
    assert report.digest is None
    content = (small_disk / "stream").read_bytes()
    assert len(content) == report.size_bytes > 20 * MIB
    assert content == (data * 100)[: len(content)]


def test_copy_needs_a_writable_destination(small_disk: Path) -> None:
    """A read-only file system is an error with a hint."""
    run("mount", "-o", "remount,ro", small_disk)
    with segment(4096) as source, opened_directory(small_disk) as target, pytest.raises(CopyError) as raised:
        copied(source, target)
    assert raised.value.errno == errno.EROFS
    assert raised.value.hint


def test_copy_keeps_what_came_before_the_disk_failed(scratch: Path) -> None:
    """The chunks before the failure are valid and kept."""
    size = 400 * MIB
    with (
        failing_disk(scratch) as path,
        segment(size, pieces=scattered(size, 200, 512 << 10)) as source,
        opened_directory(path) as target,
    ):
        report = copied(source, target, settings=CopySettings(rate="max", writers=1))
        with source.open("rb") as file:
            assert (path / "copy").read_bytes() == file.read(report.size_bytes)
        names = target.names()
    assert report.truncated
    assert "Input/output error" in str(report.truncated_reason)
    assert 0 < report.data_bytes < report.size_bytes < size
    assert "copy.part" not in names


@contextlib.contextmanager
def failing_disk(scratch: Path) -> Iterator[Path]:
    """An ext4 whose writes fail with EIO after 64 MiB: its image is a truncated memfd that may not grow again."""
    point = scratch / "point"
    point.mkdir()
    fd = os.memfd_create("disk", os.MFD_ALLOW_SEALING)
    try:
        os.truncate(fd, 256 * MIB)
        with loop_device(Path(f"/proc/{os.getpid()}/fd/{fd}"), direct=False) as device:
            run("mkfs.ext4", "-q", "-O", "^has_journal", "-b", 4096, "-g", 2048, "-E", "lazy_itable_init=1", device)
            os.truncate(fd, 64 * MIB)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
            with mounted(device, point, "ext4", "rw,errors=continue"):
                yield point
    finally:
        os.close(fd)


def test_copy_reports_an_exhausted_quota(scratch: Path) -> None:
    """EDQUOT has another hint than ENOSPC."""
    with file_system(scratch, "btrfs") as point:
        run("btrfs", "quota", "enable", point)
        run("btrfs", "subvolume", "create", point / "target")
        run("btrfs", "qgroup", "limit", "8M", point / "target")
        with segment(32 * MIB) as source, opened_directory(point / "target") as target:
            with pytest.raises(CopyError) as raised:
                copied(source, target)
            names = target.names()
    assert raised.value.errno == errno.EDQUOT
    assert "quota" in str(raised.value.hint)
    assert names == []
