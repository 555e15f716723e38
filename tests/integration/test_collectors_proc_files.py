from __future__ import annotations

import os
from pathlib import Path

import pytest
from collecting import collect, context

from collector.collectors.proc_files import MAX_BYTES, ProcFiles

NAMED = (
    "meminfo", "vmstat", "zoneinfo", "buddyinfo", "loadavg", "stat", "diskstats", "interrupts", "softirqs", "mounts",
    "net/sockstat", "net/dev", "sysvipc/shm", "cmdline", "version",
)  # fmt: skip


def test_proc_files_copies_the_machine_verbatim() -> None:
    """Each under its own path, byte by byte where it does not change."""
    collected = collect(ProcFiles())
    for name in NAMED:
        assert collected[f"proc/{name}"], name
    assert collected["proc/version"] == Path("/proc/version").read_bytes()
    assert collected.artifacts["proc/net/dev"].artifact.source is not None
    assert collected.error is None


def test_proc_files_hides_secrets_in_the_kernels_command_line(tmp_path: Path) -> None:
    """An installer's password, an iSCSI disk's; the rest is what the kernel was started with."""
    (tmp_path / "proc").mkdir()
    line = "root=/dev/sda1 ro rd.iscsi.password=hunter2 ks=https://u:hunter2@h/ks.cfg console=ttyS0\n"
    (tmp_path / "proc/cmdline").write_text(line, encoding="utf-8")
    shown = collect(ProcFiles(), context(root=str(tmp_path)))["proc/cmdline"].decode()
    assert shown == line.replace("hunter2", "[redacted]")


def test_proc_files_of_this_kernel_are_all_read_by_root() -> None:
    """Missing files are not a failure; files that may not be read are listed."""
    collected = collect(ProcFiles())
    if os.geteuid() == 0:
        assert collected.rows("unread.jsonl") == []
        assert "proc/slabinfo" in collected


def test_proc_files_on_a_kernel_with_little_in_it(tmp_path: Path) -> None:
    """Files that exist are copied, and missing ones do not fail the step."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 1 kB\n")
    for node in ("node0", "node1", "has_cpu"):
        (tmp_path / "sys/devices/system/node" / node).mkdir(parents=True)
        (tmp_path / "sys/devices/system/node" / node / "meminfo").write_text(node)
    collected = collect(ProcFiles(), context(root=str(tmp_path)))
    node = "sys/devices/system/node"
    assert list(collected.artifacts) == ["proc/meminfo", f"{node}/node0/meminfo", f"{node}/node1/meminfo"]


def test_proc_files_takes_further_paths() -> None:
    """Other characters become underscores; missing files are listed."""
    collected = collect(ProcFiles(paths=("/proc/sys/vm/laptop_mode", "/sys/kernel/mm/no:such@file")))
    assert "proc/sys/vm/laptop_mode" in collected
    assert "/sys/kernel/mm/no:such@file" in [row["path"] for row in collected.rows("unread.jsonl")]
    assert "/sys/kernel/mm/no:such@file" in collected.missing
    assert collect(ProcFiles()).missing == ""


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/proc/1/environ", "/proc/self/mem", "/proc/thread-self/maps", "/proc/../etc/shadow", "/proc/",
     "/proc", "/proc//meminfo", "/procx/y", "proc/meminfo", "/sys/./x", "", "/proc/kmsg",
     "/sys/kernel/tracing/trace_pipe"],
)  # fmt: skip
def test_proc_files_refuses_other_files(path: str) -> None:
    """Files elsewhere, files of a process, whose reads could hang, and files that are consumed by reading."""
    with pytest.raises(ValueError, match=r"not below|belongs to a process|consumed by reading"):
        ProcFiles(paths=(path,))


def test_proc_files_does_not_hang_on_endless_files(tmp_path: Path) -> None:
    """A FIFO nobody writes to, a device without end, a file without end: refused, or cut at the limit."""
    (tmp_path / "proc").mkdir()
    os.mkfifo(tmp_path / "proc" / "meminfo")
    (tmp_path / "proc" / "vmstat").symlink_to("/dev/zero")
    with (tmp_path / "proc" / "stat").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    collected = collect(ProcFiles(), context(root=str(tmp_path)))
    assert len(collected["proc/stat"]) == MAX_BYTES
    assert collected.artifacts["proc/stat"].cut == f"only the first {MAX_BYTES} bytes were read"
    assert [row["meaning"].partition(" is ")[2] for row in collected.rows("unread.jsonl")] == [
        "a FIFO, not a regular file",
        "a character device, not a regular file",
    ]
