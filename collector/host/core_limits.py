"""
Running services whose processes may not dump core.

Source: proc_pid_limits(5); setrlimit(2), RLIMIT_CORE; systemd-system.conf(5), ``DefaultLimitCORE=``.
"""

from __future__ import annotations

import re
from contextlib import closing

from collector.host.files import Host, read_at
from collector.host.own_procfs import affordable, batches

LIMITS_BYTES = 4096
CGROUP_BYTES = 4096
NAMES = 3  # looked up per process: its directory, limits and cgroup
_NO_CORE = re.compile(rb"^Max core file size +0 ", re.MULTILINE)
# The innermost service, in cgroup v2 or in systemd's own hierarchy of v1.
_SERVICE = re.compile(rb"^(?:0:|[0-9]+:name=systemd):/(?:.*/)?([^/\n]+\.service)(?:/.*)?$", re.MULTILINE)


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
                        if _NO_CORE.search(read_at(fd, "limits", LIMITS_BYTES)):
                            found.update(map(bytes.decode, _SERVICE.findall(read_at(fd, "cgroup", CGROUP_BYTES))[:1]))
                except OSError:
                    continue  # it ended meanwhile
    return sorted(found)
