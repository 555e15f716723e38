from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from collecting import collect, context
from hanging_fuse import mounted
from machine import tmpfs

from collector.collectors.block.block import Block
from collector.collectors.block.mounts import file_systems, parse_mounts

MIB = 1 << 20


@contextmanager
def loop_device(image: Path, size: int = 16 * MIB) -> Iterator[str]:
    """Attach a loop device to *image* during the block; yield its name."""
    with image.open("wb") as file:
        file.truncate(size)
    done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, check=True)
    device = done.stdout.decode().strip()
    try:
        yield Path(device).name
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.root
def test_block_lists_disks_and_their_queues(tmp_path: Path) -> None:
    """As sysfs has them; a loop device without a file is not a disk."""
    with loop_device(tmp_path / "image") as name:
        collected = collect(Block())
        scheduler = Path(f"/sys/block/{name}/queue/scheduler").read_text(encoding="utf-8").strip()
        unused = {one for one in os.listdir("/sys/block") if Path(f"/sys/block/{one}/size").read_text() == "0\n"}
    disks = {row["name"]: row for row in collected.rows("disks.jsonl")}
    queues = {row["name"]: row["files"] for row in collected.rows("queues.jsonl")}
    assert disks[name]["files"]["size"] == str(16 * MIB // 512)
    assert len(disks[name]["files"]["inflight"].split()) == 2
    assert queues[name]["queue/scheduler"] == scheduler
    assert queues[name]["loop/backing_file"] == str(tmp_path / "image")
    assert not unused & set(disks)
    assert collected.missing == ""


def machine_with(root: Path, disks: dict[str, dict[str, str]]) -> Path:
    """Make a sysfs with *disks* below *root*, of which each has files; return its ``/sys/block``."""
    for name, files in disks.items():
        for path, content in files.items():
            file = root / "sys/block" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_bytes(b"")
    return root / "sys/block"


def test_block_shows_what_a_mapped_disk_is_made_of(tmp_path: Path) -> None:
    """Its name, whether it is suspended, and its parts; of an array, what it lacks."""
    disks = {
        "dm-0": {"size": "8\n", "dm/name": "vg-root\n", "dm/suspended": "1\n", "slaves/sda2": ""},
        "md0": {"size": "8\n", "md/degraded": "1\n", "md/level": "raid1\n", "slaves/sdb1": "", "slaves/sdc1": ""},
    }
    machine_with(tmp_path, disks)
    collected = collect(Block(), context(root=str(tmp_path)))
    mapped, array = collected.rows("disks.jsonl")
    assert (mapped["files"]["dm/name"], mapped["files"]["dm/suspended"], mapped["slaves"]) == ("vg-root", "1", ["sda2"])
    assert (array["files"]["md/degraded"], array["slaves"]) == ("1", ["sdb1", "sdc1"])
    assert {"md/level": "raid1"} in [row["files"] for row in collected.rows("queues.jsonl")]


def test_block_gives_up_only_the_queue_whose_settings_do_not_come(tmp_path: Path) -> None:
    """A FIFO that nobody writes to stands for a scheduler that is being changed on a dead disk."""
    stuck = machine_with(tmp_path, {"sda": {"size": "8\n"}, "sdb": {"size": "8\n", "queue/scheduler": "[none]\n"}})
    (stuck / "sda/queue").mkdir()
    os.mkfifo(stuck / "sda/queue/scheduler")
    collected = collect(Block(read_timeout=0.1), context(root=str(tmp_path)))  # type: ignore[arg-type]
    os.close(os.open(stuck / "sda/queue/scheduler", os.O_WRONLY))  # lets the helper thread go
    assert [row["name"] for row in collected.rows("disks.jsonl")] == ["sda", "sdb"]
    assert [row["name"] for row in collected.rows("queues.jsonl")] == ["sdb"]
    assert collected.artifacts["queues.jsonl"].cut == "not read in time: /sys/block/sda/queue"


def test_block_says_how_full_file_systems_are() -> None:
    """As statvfs(3) says; each file system once."""
    rows = collect(Block()).rows("filesystems.jsonl")
    (row,) = [row for row in rows if row["path"] == "/dev/shm" and "size" in row]
    use = os.statvfs("/dev/shm")
    assert (row["kind"], row["size"]) == ("tmpfs", use.f_blocks * use.f_frsize)
    assert row["files"] == use.f_files
    assert not [one for one in rows if one["kind"] in {"proc", "sysfs"}]


@pytest.mark.root
@pytest.mark.needs("/dev/fuse")
def test_block_asks_no_file_system_that_may_not_answer(tmp_path: Path) -> None:
    """Neither a stopped FUSE server nor a tmpfs behind it: no thread hangs, nothing is truncated."""
    outer = tmp_path / "fuse"
    outer.mkdir()
    with mounted(outer) as mountpoint, tmpfs(tmp_path / "plain"):
        collected = collect(Block(read_timeout=0.2))  # type: ignore[arg-type]
    rows = {row["path"]: row for row in collected.rows("filesystems.jsonl")}
    assert rows[str(mountpoint)]["not_asked"] == "its server may not answer"
    assert rows[str(tmp_path / "plain")]["size"] == 64 * MIB
    assert collected.artifacts["filesystems.jsonl"].cut is None
    assert collected.rows("unread.jsonl") == []


@pytest.mark.root
def test_block_does_not_take_one_file_system_for_another(tmp_path: Path) -> None:
    """What lies under another mount is said to, and not given the other's numbers."""
    with tmpfs(tmp_path / "here"):
        under = Path("/proc/self/mountinfo").read_bytes().splitlines()[-1].split()[2].decode()
        with tmpfs(tmp_path / "here"):
            rows = {row["device"]: row for row in collect(Block()).rows("filesystems.jsonl")}
    assert rows[under]["not_asked"] == "another file system is mounted over it"
    assert "size" not in rows[under]


MOUNTS = b"""1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:50 / /srv rw - nfs4 server:/srv rw
3 2 0:51 / /srv/scratch rw - tmpfs tmpfs rw
4 1 0:52 / /auto rw - autofs systemd-1 rw
5 4 8:2 / /auto rw - vfat /dev/sda2 rw
6 1 8:3 / /a\\040b rw,noexec - xfs /dev/sda3 ro
7 1 8:3 /sub /bind rw - xfs /dev/sda3 ro
8 1 0:53 / /merged rw - overlay overlay rw
9 1 0:54 / /strange rw - newfs x rw
nonsense
"""


def test_block_asks_by_paths_that_lead_over_nobodys_server() -> None:
    """A tmpfs on an NFS server's directory, a disk that is mounted on demand: its path would ask."""
    found = {row.path: (row, asked) for row, asked in file_systems(parse_mounts(MOUNTS))}
    assert {path for path, (_, asked) in found.items() if asked is not None} == {"/", "/a b"}
    assert found["/srv/scratch"][0].not_asked == "its path leads over what may not answer"
    assert found["/auto"][0].not_asked
    assert found["/strange"][0].not_asked == "its server may not answer"
    assert (found["/a b"][0].mounts, found["/a b"][0].options, found["/a b"][0].super_options) == (2, "rw,noexec", "ro")


def test_block_reads_a_bounded_number_of_disks(tmp_path: Path) -> None:
    """Queues of the busiest only, and the reason says so."""
    disks = {
        f"sd{number:03}": {"size": "8\n", "stat": f"0 0 0 0 0 0 0 0 {number} 0 0\n", "queue/scheduler": "[none]\n"}
        for number in range(140)
    }
    machine_with(tmp_path, disks)
    collected = collect(Block(), context(root=str(tmp_path)))
    assert len(collected.rows("disks.jsonl")) == 140
    queues = [row["name"] for row in collected.rows("queues.jsonl")]
    assert (len(queues), queues[0]) == (128, "sd139")
    assert collected.artifacts["queues.jsonl"].cut == "only the queues of the 128 busiest of 140 disks were read"


def test_block_says_that_mounts_were_cut_off(tmp_path: Path) -> None:
    """Of overlays with a hundred layers each a line has 4 KiB; half a line is no file system."""
    machine_with(tmp_path, {"sda": {"size": "8\n"}})
    line = b"%d 1 0:%d / /m%d rw,relatime - overlay overlay rw,lowerdir=" + b"x" * 4000 + b"\n"
    (tmp_path / "proc/1").mkdir()
    for process in ("1", "self"):
        mounts = b"".join(line % (number, number, number) for number in range(100, 700))
        (tmp_path / "proc" / process / "mountinfo").write_bytes(mounts)
    collected = collect(Block(), context(root=str(tmp_path)))
    rows = collected.rows("filesystems.jsonl")
    assert len(rows) == (2 << 20) // len(line % (100, 100, 100))
    assert collected.artifacts["filesystems.jsonl"].cut == f"only the first {len(rows)} mounts were looked at"
    assert collected.artifacts["mountinfo"].cut is not None
