"""Which files of a cgroup are read. Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1 (Linux 6.18)."""

from __future__ import annotations

from collections.abc import Iterator

from collector.host.files import Host

HUGE_PAGES = "/sys/kernel/mm/hugepages"
MEMBERS = ("cgroup.procs",)
"""Of the crash's own cgroup only: `process_table` has everybody's."""

V2_FILES = (
    "memory.current", "memory.events.local", "memory.events", "memory.pressure", "memory.stat", "memory.peak",
    "memory.min", "memory.low", "memory.high", "memory.max", "memory.oom.group",
    "memory.swap.current", "memory.swap.peak", "memory.swap.high", "memory.swap.max", "memory.swap.events",
    "memory.zswap.current", "memory.zswap.max", "memory.numa_stat",
    "pids.current", "pids.events.local", "pids.events", "pids.peak", "pids.max",
    "cpu.stat", "cpu.pressure", "cpu.max", "cpu.max.burst", "cpu.weight", "cpu.idle",
    "cpu.uclamp.min", "cpu.uclamp.max",
    "io.stat", "io.pressure", "io.max", "io.weight", "io.latency", "io.prio.class",
    "cpuset.cpus", "cpuset.cpus.effective", "cpuset.mems", "cpuset.mems.effective", "cpuset.cpus.partition",
    "cgroup.events", "cgroup.stat", "cgroup.freeze", "cgroup.type", "cgroup.controllers", "cgroup.subtree_control",
    "irq.pressure", "misc.current", "misc.max", "misc.events",
)  # fmt: skip
V1_FILES = {
    "memory": (
        "memory.usage_in_bytes", "memory.failcnt", "memory.oom_control", "memory.stat", "memory.max_usage_in_bytes",
        "memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.usage_in_bytes", "memory.memsw.failcnt",
        "memory.memsw.max_usage_in_bytes", "memory.memsw.limit_in_bytes", "memory.kmem.usage_in_bytes",
        "memory.kmem.failcnt", "memory.kmem.limit_in_bytes", "memory.numa_stat", "memory.swappiness",
        "memory.use_hierarchy",
    ),
    "pids": ("pids.current", "pids.events", "pids.max"),
    "cpu": (
        "cpu.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us", "cpu.shares", "cpu.rt_runtime_us",
        "cpu.rt_period_us", "cpu.idle",
    ),
    "cpuacct": ("cpuacct.usage", "cpuacct.stat", "cpuacct.usage_percpu_user", "cpuacct.usage_percpu_sys"),
    "cpuset": (
        "cpuset.cpus", "cpuset.effective_cpus", "cpuset.mems", "cpuset.effective_mems", "cpuset.cpu_exclusive",
        "cpuset.mem_exclusive", "cpuset.memory_pressure",
    ),
    "blkio": (
        "blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced", "blkio.throttle.read_bps_device",
        "blkio.throttle.write_bps_device", "blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device",
        "blkio.bfq.io_service_bytes", "blkio.bfq.io_serviced", "blkio.bfq.weight", "blkio.weight",
    ),
}  # fmt: skip
V2_HUGE = ("current", "events.local", "events", "max", "rsvd.current", "rsvd.max", "numa_stat")
V1_HUGE = (
    "usage_in_bytes", "failcnt", "max_usage_in_bytes", "limit_in_bytes", "rsvd.usage_in_bytes", "rsvd.failcnt",
    "rsvd.limit_in_bytes",
)  # fmt: skip


def file_names(controllers: frozenset[str], huge_sizes: tuple[str, ...]) -> Iterator[str]:
    """Yield the names in a cgroup of v1 with *controllers*, of v2 if there are none, the fastest-changing first."""
    if not controllers:
        yield from V2_FILES
    for controller in sorted(controllers):
        yield from V1_FILES.get(controller, ())
    if not controllers or "hugetlb" in controllers:
        for size in huge_sizes:
            yield from (f"hugetlb.{size}.{name}" for name in (V1_HUGE if controllers else V2_HUGE))


def huge_page_sizes(host: Host) -> tuple[str, ...]:
    """Return the sizes of huge pages as files of the hugetlb controller have them: ``2MB``, ``1GB``."""
    try:
        names = host.listdir(HUGE_PAGES)
    except OSError:
        return ()
    sizes = (name.removeprefix("hugepages-").removesuffix("kB") for name in names)
    return tuple(_size(int(size)) for size in sizes if size.isdigit())


def _size(kib: int) -> str:
    if kib >= 1 << 20:
        return f"{kib >> 20}GB"
    return f"{kib >> 10}MB" if kib >= 1 << 10 else f"{kib}KB"
