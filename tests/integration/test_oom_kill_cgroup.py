"""A real kill for memory: its marker knows the cgroup, though the process is gone and its own cgroup unknown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cgroup_tree import cgroups, hierarchy_with, let_go, waiting
from collecting import collect, context
from watching import drain, of_process, opened, trigger_context

from collector.collectors.cgroup.cgroup import Cgroup
from collector.host.cgroup_membership import Hierarchy
from collector.model.marker import OOM_CGROUP
from collector.triggers.kernel_log import KernelLog

MIB = 1 << 20
KILLS = KernelLog(pstore=False, events=("oom_kill",))


def kill_for_memory(group: Path, hierarchy: Hierarchy) -> int:
    """Let a process in *group* exceed a limit of 24 MiB; return its PID once it is gone."""
    limit = "memory.limit_in_bytes" if hierarchy.controllers else "memory.max"
    (group / limit).write_text(str(24 * MIB), encoding="utf-8")
    with waiting(group, sys.executable, "-S", "-c", "b'x' * (1 << 28)") as process:
        let_go(process)
        assert process.wait() == -9
    return process.pid


@pytest.mark.root
def test_oom_kill_of_a_process_that_is_gone_leads_to_its_cgroup(tmp_path: Path) -> None:
    """Only the kernel's log had said it: the counters of that cgroup tell the limit."""
    hierarchy = hierarchy_with("memory")
    with (
        opened(KILLS, trigger_context(tmp_path)) as watch,
        cgroups(hierarchy, "a b.service", controller="memory") as (outer, group),
    ):
        pid = kill_for_memory(group, hierarchy)
        (marker,) = of_process(drain(watch), pid)
        known = marker.attributes[OOM_CGROUP]
        assert known.endswith(f":{group.stat().st_ino}:/{outer.name}/a b.service\n")
        collected = collect(Cgroup(), context(marker))
        document = collected.document("cgroup.json")
        assert document["source"] == "remembered"
        assert any(str(24 * MIB) in finding for finding in document["findings"])
        assert (collected.error, collected.missing, collected.not_applicable) == (None, "", "")


@pytest.mark.root
def test_oom_kill_while_no_daemon_ran_leaves_the_cgroup_in_doubt(tmp_path: Path) -> None:
    """Its line is old when it is read: the unit may run again by then."""
    hierarchy, notes = hierarchy_with("memory"), dict[str, str]()
    with opened(KILLS, trigger_context(tmp_path, notes=notes)) as watch:
        drain(watch)
    with cgroups(hierarchy, "a.service", controller="memory") as (outer, group):
        pid = kill_for_memory(group, hierarchy)
        with opened(KILLS, trigger_context(tmp_path, notes=notes)) as watch:
            (marker,) = of_process(drain(watch), pid)
        assert marker.attributes[OOM_CGROUP].endswith(f":0:/{outer.name}/a.service\n")
        assert "later run" in collect(Cgroup(), context(marker)).missing
