"""
Files of one value each: settings, pools and counters, in one table rather than as hundreds of files.

Reading one changes nothing and takes no lock for long, about 8 us. Left out on purpose: ``vm.stat_refresh``, which
makes every CPU work when it is read, and serial numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from collector.host.files import Host
from collector.model.artifact import Truncated
from collector.model.text import escape

VALUE_BYTES = 1024
# Of a machine with 8 nodes, 2 page sizes and 64 DIMMs these are 400.
MAX_FOUND = 1024

_KERNEL = (
    "core_pattern", "core_pipe_limit", "core_uses_pid", "hung_task_detect_count", "hung_task_panic",
    "hung_task_timeout_secs", "hung_task_warnings", "kptr_restrict", "dmesg_restrict", "nmi_watchdog", "numa_balancing",
    "oops_limit", "panic", "panic_on_oops", "panic_on_warn", "panic_on_rcu_stall", "pid_max", "pty/nr", "pty/max",
    "random/boot_id", "randomize_va_space", "sched_autogroup_enabled", "sched_cfs_bandwidth_slice_us",
    "sched_rt_period_us", "sched_rt_runtime_us", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced",
    "softlockup_panic", "split_lock_mitigate", "tainted", "threads-max", "timer_migration", "warn_limit", "watchdog",
    "watchdog_thresh", "yama/ptrace_scope",
)  # fmt: skip
_VM = (
    "admin_reserve_kbytes", "compaction_proactiveness", "dirty_background_bytes", "dirty_background_ratio",
    "dirty_bytes", "dirty_expire_centisecs", "dirty_ratio", "dirty_writeback_centisecs", "extfrag_threshold",
    "hugetlb_shm_group", "lowmem_reserve_ratio", "max_map_count", "min_free_kbytes", "min_slab_ratio",
    "min_unmapped_ratio", "nr_hugepages", "nr_overcommit_hugepages", "oom_dump_tasks", "oom_kill_allocating_task",
    "overcommit_kbytes", "overcommit_memory", "overcommit_ratio", "page-cluster", "panic_on_oom",
    "percpu_pagelist_high_fraction", "swappiness", "user_reserve_kbytes", "vfs_cache_pressure",
    "watermark_boost_factor", "watermark_scale_factor", "zone_reclaim_mode",
)  # fmt: skip
_FS = (
    "aio-max-nr", "aio-nr", "dentry-state", "epoll/max_user_watches", "file-max", "file-nr", "inode-nr", "inode-state",
    "inotify/max_queued_events", "inotify/max_user_instances", "inotify/max_user_watches", "mount-max",
    "mqueue/msg_max", "mqueue/queues_max", "nr_open", "pipe-max-size", "pipe-user-pages-soft", "suid_dumpable",
)  # fmt: skip
_MEMORY = (
    "transparent_hugepage/enabled", "transparent_hugepage/defrag", "transparent_hugepage/shmem_enabled",
    "transparent_hugepage/khugepaged/defrag", "transparent_hugepage/khugepaged/pages_collapsed", "ksm/run",
    "ksm/pages_shared", "ksm/pages_sharing", "ksm/pages_unshared", "ksm/general_profit", "lru_gen/enabled",
    "numa/demotion_enabled",
)  # fmt: skip
_CPU = ("online", "offline", "isolated", "nohz_full", "smt/control")
_DMI = ("sys_vendor", "product_name", "board_name", "bios_version", "bios_date")
PATHS = (
    "/sys/kernel/oops_count", "/sys/kernel/warn_count",
    *(f"/proc/sys/kernel/{name}" for name in _KERNEL),
    *(f"/proc/sys/vm/{name}" for name in _VM),
    *(f"/proc/sys/fs/{name}" for name in _FS),
    *(f"/sys/kernel/mm/{name}" for name in _MEMORY),
    *(f"/sys/module/zswap/parameters/{name}" for name in ("enabled", "compressor", "max_pool_percent")),
    *(f"/sys/devices/system/cpu/{name}" for name in _CPU),
    "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    *(f"/sys/class/dmi/id/{name}" for name in _DMI),
)  # fmt: skip

HUGE = "/sys/kernel/mm/hugepages"
POOL = ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages")
NODES = "/sys/devices/system/node"
NODE = ("cpulist", "distance")
# Correctable and uncorrectable errors of memory. Source: Documentation/admin-guide/ras.rst.
EDAC = "/sys/devices/system/edac/mc"
CONTROLLER = ("mc_name", "ce_count", "ce_noinfo_count", "ue_count", "ue_noinfo_count", "seconds_since_reset")
MODULE = ("dimm_label", "dimm_location", "dimm_ce_count", "dimm_ue_count")


def value_rows(host: Host) -> Iterator[bytes]:
    """
    Yield path and value with a tab between, white space as one blank; files that are not there are left out.

    Raises:
        Truncated: At the end, if the machine has more of them than are read.
    """
    found = _found(host)
    for path in (*PATHS, *islice(found, MAX_FOUND)):
        try:
            value = host.read(path, limit=VALUE_BYTES)
        except OSError:  # not this kernel, or not permitted, which differs for hardly any
            continue
        yield f"{path}\t{escape(b' '.join(value.split()))}\n".encode()
    if (left_out := next(found, None)) is not None:
        raise Truncated(
            f"only {MAX_FOUND} values of huge pages, nodes and memory modules were read, none of {left_out}"
        )


def _found(host: Host) -> Iterator[str]:
    """Yield the paths of what differs between machines: pools of huge pages, nodes, memory modules."""
    yield from _pools(host, HUGE)
    for node in _names(host, NODES, r"node[0-9]+"):
        yield from (f"{NODES}/{node}/{name}" for name in NODE)
        yield from _pools(host, f"{NODES}/{node}/hugepages")
    for controller in _names(host, EDAC, r"mc[0-9]+"):
        folder = f"{EDAC}/{controller}"
        yield from (f"{folder}/{name}" for name in CONTROLLER)
        yield from (f"{folder}/{one}/{name}" for one in _names(host, folder, r"(dimm|rank)[0-9]+") for name in MODULE)


def _pools(host: Host, folder: str) -> Iterator[str]:
    return (f"{folder}/{size}/{name}" for size in _names(host, folder, r"hugepages-[0-9]+kB") for name in POOL)


def _names(host: Host, folder: str, pattern: str) -> list[str]:
    try:
        return [name for name in host.listdir(folder) if re.fullmatch(pattern, name)]
    except OSError:
        return []
