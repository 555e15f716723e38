from __future__ import annotations

import os
from pathlib import Path

import pytest
from collecting import collect, context

from collector.collectors.proc_files.proc_files import MAX_BYTES, ProcFiles

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


def test_proc_files_has_settings_pools_and_counters_in_one_table() -> None:
    """One value a line, as the kernel shows it."""
    values = dict(line.split("\t") for line in collect(ProcFiles()).text("values.tsv").splitlines())
    for name in ("kernel/core_pattern", "vm/swappiness", "vm/dirty_ratio", "kernel/pid_max"):
        shown = Path("/proc/sys", name).read_text(encoding="utf-8")
        assert values[f"/proc/sys/{name}"].replace("\\\\", "\\") == " ".join(shown.split())
    assert len(values["/proc/sys/fs/file-nr"].split()) == 3


def test_proc_files_finds_huge_pages_nodes_and_memory_errors_of_any_machine(tmp_path: Path) -> None:
    """Pools of each size and node, error counters of each module, whatever else lies beside them."""
    files = {
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "7\n",
        "sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages": "3\n",
        "sys/devices/system/node/node1/distance": "20 10\n",
        "sys/devices/system/edac/mc/mc0/ce_count": "5\n",
        "sys/devices/system/edac/mc/mc0/dimm3/dimm_label": "CPU\x1b_SrcID#0\n",
        "sys/devices/system/edac/mc/mc0/dimm3/dimm_ue_count": "1\n",
        "sys/devices/system/edac/mc/power/ce_count": "9\n",
        "sys/kernel/oops_count": "2\n",
    }
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    collected = collect(ProcFiles(), context(root=str(tmp_path)))
    found = dict(line.split("\t") for line in collected.text("values.tsv").splitlines())
    expected = {f"/{path}": value.strip() for path, value in files.items() if "power" not in path}
    expected["/sys/devices/system/edac/mc/mc0/dimm3/dimm_label"] = "CPU\\x1b_SrcID#0"
    assert found == expected


def test_proc_files_say_that_a_machine_has_more_values_than_are_read(tmp_path: Path) -> None:
    """Four of each of 300 memory modules; those that are left out may be the broken ones."""
    for number in range(300):
        module = tmp_path / f"sys/devices/system/edac/mc/mc0/dimm{number}"
        module.mkdir(parents=True)
        (module / "dimm_ce_count").write_text("1\n", encoding="utf-8")
    collected = collect(ProcFiles(), context(root=str(tmp_path)))
    assert len(collected.text("values.tsv").splitlines()) < 300
    assert "only 1024 values" in str(collected.artifacts["values.tsv"].cut)
