"""The figures of the flight recorder, from another machine's files and from this one's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from collector.host.disk_counters import BusiestDisks, disk_name, disk_of, parse_diskstats
from collector.host.files import Host
from collector.host.kernelfile import OptionalFile
from collector.host.machine_counters import MachineCounters
from collector.host.memory import Psi, allocstall
from collector.model.recording import COLUMNS, DISKS, INDEX, MISSING, NO_DISK

VMSTAT = b"""nr_free_pages 5
pgfault 11
allocstall_dma 1
allocstall_normal 2
allocstall_movable 4
pgmajfault 3
oom_kill 9
"""
LINE = "   {}       {} {} 10 0 {} 1 20 0 {} 2 {} {} 3 0 0 0 0 0 0\n"


def machine(root: Path, files: dict[str, str]) -> Host:
    for name, text in files.items():
        path = root / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Host(str(root))


def disk(minor: int, *, busy: int, major: int = 4_000) -> str:
    return LINE.format(major, minor, f"d{minor}", 100 + minor, 200 + minor, 7, busy)


FILES = {
    "meminfo": "MemTotal: 9 kB\nMemFree:   2 kB\nMemAvailable: 3 kB\nDirty: 5 kB\nShmem: 4 kB\nShmemHugePages: 8 kB\n",
    "loadavg": "1.25 0.5 0.25 3/120 999\n",
    "pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=66\n",
    "diskstats": disk(1, busy=5),
}


def test_machine_counters_are_in_the_order_of_the_columns(tmp_path: Path) -> None:
    """What this kernel does not have is missing, and nothing else moves."""
    host = machine(tmp_path, FILES)
    figures, disks = MachineCounters(host, None).read(VMSTAT, Psi(host))
    assert len(figures) == INDEX["own_cpu"] - 1
    found = dict(zip((column.name for column in COLUMNS[1:]), figures, strict=False))
    assert {name: value for name, value in found.items() if value != MISSING} == {
        "psi_io_some": 77,
        "psi_io_full": 66,
        "mem_available": 3072,
        "mem_free": 2048,
        "shmem": 4096,
        "dirty": 5120,
        "pgfault": 11,
        "pgmajfault": 3,
        "allocstall": 7,
        "oom_kill": 9,
        "load1": 125,
        "runnable": 3,
        "tasks": 120,
    }
    assert disks == [*NO_DISK, 4_000 << 32 | 1, 101, 201, 7, 5, *NO_DISK * (DISKS - 2)]


def test_machine_counters_are_missing_where_there_are_no_files(tmp_path: Path) -> None:
    """A container may hide them; the recorder goes on with what there is."""
    host = Host(str(tmp_path))
    figures, disks = MachineCounters(host, (8, 0)).read(b"", Psi(host))
    assert {name: value for name, value in zip(COLUMNS[1:], figures, strict=False) if value != MISSING} == {
        COLUMNS[INDEX["allocstall"]]: 0
    }
    assert disks == [*NO_DISK] * DISKS


def test_kernel_file_that_cannot_be_read_any_more_is_empty() -> None:
    """A process that has ended, in place of a disk that was unplugged: the supervisor goes on."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        file = OptionalFile(Host(), f"/proc/{process.pid}/stat", size=512)
        assert file.read().startswith(b"%d " % process.pid)
    assert file.read() == b""


def test_vmstat_allocstall_is_summed_over_zones() -> None:
    """Wherever its lines stand, and if there are none."""
    assert allocstall(VMSTAT) == allocstall(VMSTAT[: VMSTAT.index(b"pgmajfault")]) == 7
    assert allocstall(b"pgfault 1\nallocstall 3\npgmajfault 2\n") == 3  # before Linux 4.10
    assert allocstall(b"pgfault 1\n") == 0


def test_disks_are_the_archives_and_the_busiest(tmp_path: Path) -> None:
    """A disk keeps its place until another is busier."""
    host = machine(tmp_path, {"diskstats": "".join(disk(minor, busy=10) for minor in range(1, 8))})
    disks = BusiestDisks(host, (4_000, 7), 3)

    def shown() -> list[int | None]:
        return [one and one.minor for one in disks.read()]

    assert shown() == [7, 1, 2]
    (tmp_path / "proc/diskstats").write_text("".join(disk(minor, busy=10 + 10 * (minor == 5)) for minor in range(1, 8)))
    assert shown() == [7, 5, 1]
    assert shown() == [7, 1, 5], "what is equally busy stays"


def test_disks_of_the_archive_are_found_behind_any_number_of_others(tmp_path: Path) -> None:
    """Of ``/proc/diskstats`` the first 600 lines are read; 500 LUNs with four paths each have 2,500, dm's the last."""
    host = machine(tmp_path, {"diskstats": "".join(disk(minor, busy=10) for minor in range(1, 2001))})
    stat = tmp_path / "sys/dev/block/4000:2000/stat"
    stat.parent.mkdir(parents=True)
    stat.write_text(disk(2000, busy=44).partition(" d2000 ")[2], encoding="utf-8")
    disks = BusiestDisks(host, (4_000, 2000), 2)
    first, other = disks.read()
    assert first == (4_000, 2000, 2100, 2200, 7, 44)
    assert other is not None
    assert other.minor == 1


def test_disks_are_told_from_partitions_anew_when_a_number_comes_back(tmp_path: Path) -> None:
    """Numbers of NVMe disks and of partitions come from one supply, and what is unplugged gives its own back."""
    host = machine(tmp_path, {"diskstats": disk(1, busy=5) + disk(2, busy=5)})
    disks = BusiestDisks(host, None, 3)
    partition = tmp_path / "sys/dev/block/4000:2/partition"
    partition.parent.mkdir(parents=True)
    partition.touch()

    def shown(*minors: int) -> list[int]:
        (tmp_path / "proc/diskstats").write_text("".join(disk(minor, busy=5) for minor in minors), encoding="utf-8")
        return sorted(one.minor for one in disks.read() if one)

    assert shown(1, 2) == [1]
    assert shown(1) == [1]
    partition.unlink()
    assert shown(1, 2) == [1, 2]


def test_disks_are_parsed_as_far_as_they_were_read() -> None:
    """A line that was cut off, and disks that were never used, are left out."""
    unused = LINE.format(7, 0, "loop0", 0, 0, 0, 0).replace(" 10 0 ", " 0 0 ").replace(" 20 0 ", " 0 0 ")
    text = (unused + disk(1, busy=4) + disk(2, busy=5)).encode()
    assert [one.minor for one in parse_diskstats(text[:-40])] == [1]
    assert parse_diskstats(b"") == []
    assert parse_diskstats(disk(1, busy=4).replace(" 7 4 ", " -1 4 ").encode()) == []


def test_disk_of_a_path_has_counters() -> None:
    """On the real machine, unless its root is not on a disk."""
    first = disk_of("/")
    if first is not None:
        assert disk_name(f"{first[0]}:{first[1]}")
        found = BusiestDisks(Host(), first, 4).read()[0]
        assert found is not None
        assert found[:2] == first
    assert disk_of("/no/such/path") is None
