"""The sampler, on this machine and on recorded files of others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from collector.host.files import Host
from collector.model.pressure import CgroupSample, Distress, Tick
from collector.pressure.sampler import Sampler

MEMINFO = "MemTotal: 1000 kB\nMemFree: 400 kB\nMemAvailable: 300 kB\nDirty: 10 kB\nWriteback: 20 kB\nShmem: 5 kB\n"
VMSTAT = (
    "nr_free_pages 1\nallocstall_dma 1\nallocstall_normal 2\nallocstall_movable 4\n"
    "pgscan_direct 100\npgscan_direct_throttle 7\npgscan_kswapd 9\n"
)
# As Linux 6.18 writes it, shortened: per-node figures follow the first zone of the node.
ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_file 300
      nr_active_file 100
      nr_dirty     30
      nr_dirtied   9999
      nr_writeback 10
      nr_writeback_temp 7777
  pages free     3840
        boost    0
        min      10
        low      14
        high     18
        managed  3840
        protection: (0, 3000, 24000, 24000)
      nr_zone_inactive_file 8888
Node 0, zone   Normal
  pages free     5000
        min      1000
        high     1400
        managed  900000
        protection: (0, 0, 500, 500)
  pagesets
    cpu: 0
              count:    400
              high_min: 9
Node 0, zone  Movable
  pages free     700
        min      60
        managed  9000
        protection: (0, 0, 0, 0)
Node 0, zone   Device
  pages free     66666
        min      0
        managed  0
        protection: (0, 0, 0, 0)
Node 1, zone      DMA
  per-node stats
      nr_inactive_file 5
      nr_active_file 0
      nr_dirty     90
      nr_writeback 0
  pages free     0
        min      0
        managed  0
        protection: (0, 0, 0, 0)
Node 1, zone   Normal
  pages free     2000
        min      400
        managed  8000
        protection: (0, 0, 100, 100)
"""
NODE_0 = (5000 - 1500) + (700 - 60) + (400 - 40) // 2
"""DMA keeps all that it has back; half of the clean page cache counts; Device is not populated."""

NODE_1 = 2000 - 500
"""More of its page cache is dirty than it has on its lists: none counts."""


def machine(root: Path, files: dict[str, str]) -> Host:
    base = {"/proc/meminfo": MEMINFO, "/proc/vmstat": VMSTAT, "/proc/zoneinfo": ZONEINFO}
    for path, text in {**base, **files}.items():
        file = root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Host(str(root))


def test_sampler_agrees_with_psutil_on_this_machine() -> None:
    """The same total, and the same shared memory up to a second's noise."""
    sample = Sampler().sample()
    memory = psutil.virtual_memory()
    assert sample.total_bytes == memory.total
    assert abs(sample.shmem_bytes - memory.shared) < 64 << 20
    assert 0 < sample.room_bytes < memory.total


def test_sampler_counts_what_each_zone_can_spare(tmp_path: Path) -> None:
    """Free pages above the minimum and what is protected against higher zones, and half of the clean page cache."""
    sample = Sampler(machine(tmp_path, {})).sample()
    assert {node.node: node.room_bytes for node in sample.nodes} == {0: NODE_0 * 4096, 1: NODE_1 * 4096}
    assert sample.room_bytes == (NODE_0 + NODE_1) * 4096


def test_sampler_leaves_out_nodes_that_it_may_not_allocate_from(tmp_path: Path) -> None:
    """A cpuset keeps the collector off node 0: its room does not count."""
    files = {"/proc/self/status": "Name:\tx\nMems_allowed:\t2\nMems_allowed_list:\t1,4-6\n"}
    assert [node.node for node in Sampler(machine(tmp_path, files)).sample().nodes] == [1]


def test_sampler_sums_counters_over_zones(tmp_path: Path) -> None:
    """The kernel counts allocstall per zone."""
    sampler = Sampler(machine(tmp_path, {}))
    assert sampler.sample().available_bytes == (300 - 10 - 20) * 1024
    assert [tick.allocstall for tick in sampler.ticks] == [7]


def test_sampler_sees_what_changes_after_it_was_opened(tmp_path: Path) -> None:
    """Files are opened once and read again each time."""
    sampler = Sampler(machine(tmp_path, {}))
    sampler.sample()
    (tmp_path / "proc/meminfo").write_text(MEMINFO.replace("300", "200"))
    (tmp_path / "proc/vmstat").write_text(VMSTAT.replace("normal 2", "normal 200"))
    sample = sampler.sample()
    assert sample.mem_available_bytes == 200 * 1024
    assert sample.distress is Distress.SEVERE


def test_sampler_continues_from_another_ones_readings(tmp_path: Path) -> None:
    """The worker judges by the seconds before its job, which the supervisor watched."""
    sampler = Sampler(machine(tmp_path, {}))
    now_s = time.monotonic()
    sampler.continue_from([Tick(taken_s=now_s - 2.0, allocstall=0), Tick(taken_s=now_s - 1.0, allocstall=1)])
    assert sampler.sample().distress is Distress.MILD


def test_sampler_works_without_psi(tmp_path: Path) -> None:
    """Many kernels have PSI turned off; a tick then has None, not 0."""
    without = Sampler(machine(tmp_path, {}))
    without.tick()
    assert (without.has_psi, without.ticks[-1].stalled_us) == (False, None)
    text = "some avg10=1.00 avg60=0.1 avg300=0.0 total=1234567\nfull avg10=0.50 avg60=0.1 avg300=0.0 total=1\n"
    with_psi = Sampler(machine(tmp_path, {"/proc/pressure/memory": text}))
    with_psi.tick()
    assert (with_psi.has_psi, with_psi.ticks[-1].stalled_us) == (True, 1_234_567)


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


def test_sampler_reads_the_limit_of_cgroup_v2(tmp_path: Path) -> None:
    """Page cache that can be dropped immediately is not used memory."""
    assert Sampler(machine(tmp_path, V2)).sample().cgroup == CgroupSample(used_bytes=400, limit_bytes=1000)


def test_sampler_compares_an_ancestors_limit_with_the_ancestors_usage(tmp_path: Path) -> None:
    """Siblings may have used up the limit of a slice or a pod, which our own usage does not show."""
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
    """After it was moved and the old cgroup removed, whose files then answer ENODEV."""
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
