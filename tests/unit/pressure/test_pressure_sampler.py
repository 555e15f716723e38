"""The sampler: on this machine, and on recorded files of machines that this one is not."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from collector.host.files import Host
from collector.host.memory import high_watermarks
from collector.model.pressure import CgroupSample
from collector.pressure.sampler import Sampler

MEMINFO = "MemTotal: 1000 kB\nMemFree: 400 kB\nMemAvailable: 300 kB\nDirty: 10 kB\nWriteback: 20 kB\nShmem: 5 kB\n"
VMSTAT = (
    "nr_free_pages 1\nallocstall_dma 1\nallocstall_normal 2\nallocstall_movable 4\n"
    "pgscan_direct 100\npgscan_direct_throttle 7\npgscan_kswapd 9\n"
)
ZONEINFO = (
    "Node 0, zone      DMA\n  pages free     3840\n        boost    0\n        min      10\n        low      14\n"
    "        high     18\nNode 0, zone   Normal\n        high     100\n  pagesets\n    cpu: 0\n              high:  9\n"
    "Node 1, zone   Normal\n        high     50\n"
)


def machine(root: Path, files: dict[str, str]) -> Host:
    base = {"/proc/meminfo": MEMINFO, "/proc/vmstat": VMSTAT, "/proc/zoneinfo": ZONEINFO}
    for path, text in {**base, **files}.items():
        file = root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Host(str(root))


def test_sampler_agrees_with_psutil_on_this_machine() -> None:
    """Two readers of one kernel: the same total, and shared memory within the noise of a second."""
    sample = Sampler().sample()
    memory = psutil.virtual_memory()
    assert sample.total_bytes == memory.total
    assert abs(sample.shmem_bytes - memory.shared) < 64 << 20
    assert sample.high_watermark_bytes > 0


def test_sampler_sums_counters_over_zones(tmp_path: Path) -> None:
    """allocstall comes per zone; a throttle count is not a scan."""
    sample = Sampler(machine(tmp_path, {})).sample()
    assert (sample.allocstall, sample.pgscan_direct) == (7, 100)
    assert sample.available_bytes == (300 - 10 - 20) * 1024


def test_sampler_sees_what_changes_after_it_was_opened(tmp_path: Path) -> None:
    """Files are opened once and read anew each time."""
    sampler = Sampler(machine(tmp_path, {}))
    sampler.sample()
    (tmp_path / "proc/meminfo").write_text(MEMINFO.replace("300", "200"))
    assert sampler.sample().mem_available_bytes == 200 * 1024


def test_sampler_does_without_psi(tmp_path: Path) -> None:
    """Many kernels ship PSI off; the sample says None, not 0."""
    assert Sampler(machine(tmp_path, {})).sample().psi_full_avg10_percent is None
    with_psi = machine(tmp_path, {"/proc/pressure/memory": "some avg10=1.00\nfull avg10=0.50 avg60=0.1 total=1\n"})
    assert Sampler(with_psi).sample().psi_full_avg10_percent == 0.5


def test_sampler_reads_nodes_when_there_are_two(tmp_path: Path) -> None:
    """A node's files carry a prefix; half of its page cache counts, what is dirty does not."""
    node = "Node {n} MemFree: 100 kB\nNode {n} Active(file): 40 kB\nNode {n} Dirty: 8 kB\n"
    files = {f"/sys/devices/system/node/node{n}/meminfo": node.format(n=n) for n in (0, 1)}
    nodes = Sampler(machine(tmp_path, files)).sample().nodes
    assert [(n.node, n.available_bytes) for n in nodes] == [(0, 112 * 1024), (1, 112 * 1024)]
    assert nodes[1].high_watermark_bytes == 50 * 4096


def test_high_watermarks_ignore_the_pagesets() -> None:
    """``high:`` of a per-CPU page set is no watermark."""
    assert high_watermarks(ZONEINFO.encode()) == {0: 118 * 4096, 1: 50 * 4096}


V2 = {
    "/proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "/proc/self/cgroup": "0::/a/b\n",
    "/sys/fs/cgroup/a/memory.max": "max\n",
    "/sys/fs/cgroup/a/memory.high": "9000\n",
    "/sys/fs/cgroup/a/memory.current": "600\n",
    "/sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 0\n",
    "/sys/fs/cgroup/a/b/memory.max": "max\n",
    "/sys/fs/cgroup/a/b/memory.high": "1000\n",
    "/sys/fs/cgroup/a/b/memory.current": "500\n",
    "/sys/fs/cgroup/a/b/memory.stat": "anon 1\ninactive_file 100\n",
}


def test_sampler_reads_the_own_limit_of_cgroup_v2(tmp_path: Path) -> None:
    """Page cache that can be dropped at once is not used memory."""
    assert Sampler(machine(tmp_path, V2)).sample().cgroup == CgroupSample(used_bytes=400, limit_bytes=1000)


def test_sampler_holds_an_ancestors_limit_against_the_ancestors_usage(tmp_path: Path) -> None:
    """Siblings may have used up what a slice or a pod may have; the own usage says nothing of it."""
    files = V2 | {"/sys/fs/cgroup/a/memory.current": "8900\n"}
    assert Sampler(machine(tmp_path, files)).sample().cgroup == CgroupSample(used_bytes=8900, limit_bytes=9000)


V1 = {
    "/proc/self/mountinfo": "31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    "/proc/self/cgroup": "4:memory:/c\n0::/\n",
    "/sys/fs/cgroup/memory/c/memory.usage_in_bytes": "500\n",
    "/sys/fs/cgroup/memory/c/memory.limit_in_bytes": "800\n",
    "/sys/fs/cgroup/memory/c/memory.stat": "total_inactive_file 50\n",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes": "7000\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
}


def test_sampler_reads_the_limit_of_cgroup_v1(tmp_path: Path) -> None:
    """v1's "no limit" is 2^63 - 4096."""
    assert Sampler(machine(tmp_path, V1)).sample().cgroup == CgroupSample(used_bytes=450, limit_bytes=800)
    unlimited = V1 | {"/sys/fs/cgroup/memory/c/memory.limit_in_bytes": "9223372036854771712\n"}
    assert Sampler(machine(tmp_path, unlimited)).sample().cgroup is None


@pytest.mark.root
def test_sampler_survives_the_end_of_its_cgroup() -> None:
    """Moved elsewhere, and the old cgroup removed: its files answer ENODEV from then on."""
    tree = Path("/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup")
    group = tree / f"collector-test-{os.getpid()}"
    group.mkdir()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            (group / "cgroup.procs").write_text("0")
            sampler = Sampler()
            sampler.sample()
            (tree / "cgroup.procs").write_text("0")
            group.rmdir()
            status = 0 if sampler.sample().total_bytes else 1
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
