"""
Running services whose processes may not dump core.

Source: proc_pid_limits(5); setrlimit(2), RLIMIT_CORE; systemd-system.conf(5), ``DefaultLimitCORE=``.
"""

from __future__ import annotations

from contextlib import closing

from collector.host.files import Host, read_at
from collector.host.own_procfs import affordable, batches
from collector.host.process_identity import CORE_LIMIT, unit_of

LIMITS_BYTES = 4096
CGROUP_BYTES = 4096
NAMES = 3  # looked up per process: its directory, limits and cgroup


def services_without_cores(host: Host) -> list[str]:
    """
    Return the names of the services with a process whose soft limit is 0, sorted.

    Raises:
        WalkError: If there are more processes than may be looked at here.
    """
    found: set[str] = set()
    with closing(batches(host, most=affordable(names=NAMES))) as listing:
        for procfs, pids in listing:
            for pid in pids:
                try:
                    with procfs.process(pid) as fd:
                        limit = CORE_LIMIT.search(read_at(fd, "limits", LIMITS_BYTES))
                        if limit and limit[1] == b"0" and (unit := unit_of(read_at(fd, "cgroup", CGROUP_BYTES))):
                            found.update({unit} if unit.endswith(".service") else ())
                except OSError:
                    continue  # it ended meanwhile
    return sorted(found)
