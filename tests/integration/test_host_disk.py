"""What sysfs says of real disks; and of one put together of several, which takes modules that not every kernel has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from copying_fixtures import MIB, file_system, mounted, run

from collector.host import disk


@pytest.mark.root
def test_flushes_of_a_partition_are_counted_by_its_disk(scratch: Path) -> None:
    """The partition's own counter stays the same: flushes belong to the whole disk."""
    image, point = scratch / "disk.img", scratch / "point"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    loop = run("losetup", "--partscan", "--find", "--show", "--direct-io=on", image)
    try:
        run("addpart", loop, "1", "2048", "100000")
        run("mkfs.ext4", "-q", f"{loop}p1")
        with mounted(f"{loop}p1", point, "ext4", "rw"):
            found = disk.disks(point.stat().st_dev)
            assert [Path(folder).name for folder in found] == [Path(loop).name]
            before = disk.flushes(found)
            sync(point / "file")
            after = disk.flushes(found)
        assert before is not None
        assert after is not None
        assert after > before
    finally:
        run("losetup", "-d", loop)


@pytest.mark.root
def test_flushes_do_not_increase_without_a_sync(scratch: Path) -> None:
    """Writes alone do not count."""
    with file_system(scratch, "ext4", size=64 * MIB) as point:
        found = disk.disks(point.stat().st_dev)
        sync(point / "file")
        before = disk.flushes(found)
        (point / "other").write_bytes(b"some")
        assert disk.flushes(found) == before


def test_flushes_of_what_is_not_a_disk_are_unknown(scratch: Path) -> None:
    """A tmpfs, a network file system, a btrfs: they make up their own device numbers."""
    assert disk.flushes(disk.disks(Path("/dev/shm").stat().st_dev)) is None


def test_disks_below_a_volume_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LVM on RAID on a partition and a disk: the flushes of both disks count, each once."""
    block = tmp_path / "block"
    for name, flushes in {"sda": 3, "sdb": 4, "md0": 100, "dm-0": 100}.items():
        (block / name / "slaves").mkdir(parents=True)
        (block / name / "stat").write_text(" 1" * 15 + f" {flushes} 1\n")
    (block / "sda/sda1").mkdir()
    (block / "sda/sda1/partition").write_text("1\n")
    (block / "md0/slaves/sda1").symlink_to("../../sda/sda1")
    (block / "md0/slaves/sdb").symlink_to("../../sdb")
    (block / "dm-0/slaves/md0").symlink_to("../../md0")
    (tmp_path / "253:0").symlink_to("block/dm-0")
    monkeypatch.setattr(disk, "BY_NUMBER", str(tmp_path))
    found = disk.disks(os.makedev(253, 0))
    assert [Path(folder).name for folder in found] == ["sda", "sdb"]
    assert disk.flushes(found) == 7


def sync(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"some")
        os.fsync(file.fileno())
