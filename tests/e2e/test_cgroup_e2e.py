"""The cgroup of real crashes, by the steps that ship: of who is held, is gone, or was killed for memory."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cgroup_tree import cgroups, hierarchy_with, let_go, waiting
from configuration import EXITS, SHIPPED, config_of
from harness import Daemon, Victim, steps_of
from machine import PROC_CONNECTOR, core_pattern

pytestmark = pytest.mark.root
MIB = 1 << 20
STEP = "{id: cgroup, collector: cgroup}"


def summary(daemon: Daemon, manifest: dict[str, Any]) -> Any:
    return msgspec.json.decode((daemon.archive / manifest["id"] / "cgroup" / "cgroup.json").read_bytes())


def row(daemon: Daemon, manifest: dict[str, Any], group: Path) -> dict[str, Any]:
    """Return what was archived of the hierarchy that has *group*."""
    rows = summary(daemon, manifest)["hierarchies"]
    return next(one for one in rows if one["cgroup"].endswith(f"/{group.parent.name}/{group.name}"))


def test_pipelines_that_ship_read_the_cgroup_after_what_changes_faster() -> None:
    """In both of them: a kill for memory runs `brief`."""
    for name, before in (("crash", "process"), ("brief", "processes")):
        steps = [step["id"] for step in SHIPPED["pipelines"][name]["steps"]]
        assert steps.index("cgroup") > steps.index(before)


@pytest.mark.parametrize("mode", ["socket", "pipe"])
def test_cgroup_of_a_held_process_is_archived(daemon_factory: Callable[..., Daemon], crasher: Path, mode: str) -> None:
    """It is in it while it is held, so nothing is in doubt."""
    held = f"{{id: held, type: kernel_cores, pipeline: crash, mode: {mode}}}"
    with (
        tempfile.TemporaryDirectory(prefix="held-", dir="/tmp") as near,
        cgroups(hierarchy_with(""), "app.service") as (_, group),
        core_pattern("core"),
    ):
        daemon = daemon_factory(config_of(triggers=(held,), runtime={"directory": near}))
        victim = Victim(crasher)
        (group / "cgroup.procs").write_text(str(victim.process.pid), encoding="utf-8")
        pid = victim.die()
        (manifest,) = daemon.wait_for_incidents(1)
        daemon.stop()
        assert steps_of(manifest)["cgroup"]["status"] == "ok"
        assert summary(daemon, manifest)["source"] == "process"
        assert row(daemon, manifest, group)["confirmed"]
        procs = daemon.archive / manifest["id"] / "cgroup/v2/0/cgroup.procs"
        assert str(pid) in procs.read_text(encoding="utf-8").split()


@pytest.mark.needs(PROC_CONNECTOR)
def test_cgroup_of_a_process_without_a_core_is_the_one_that_was_remembered(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """It is a zombie or gone when its end is reported; its cgroup is there, and has the inode that was seen."""
    with cgroups(hierarchy_with(""), "app.service") as (_, group), core_pattern("|/bin/false"):
        daemon = daemon_factory(config_of(STEP, triggers=(EXITS,)))
        victim = Victim(crasher, core_limit=0)
        (group / "cgroup.procs").write_text(str(victim.process.pid), encoding="utf-8")
        victim.die()
        (manifest,) = daemon.wait_for_incidents(1)
        daemon.stop()
        assert steps_of(manifest)["cgroup"]["status"] == "ok"
        assert row(daemon, manifest, group)["confirmed"]


def test_cgroup_of_a_process_killed_for_memory_names_the_limit(daemon_factory: Callable[..., Daemon]) -> None:
    """The kernel's log is all that tells of it; the counters of its cgroup say which limit it was."""
    hierarchy = hierarchy_with("memory")
    limit = "memory.limit_in_bytes" if hierarchy.controllers else "memory.max"
    greedy = (sys.executable, "-S", "-c", "b'x' * (1 << 28)")
    kernel = "{id: kernel, type: kernel_log, events: [oom_kill], pipeline: crash}"
    with cgroups(hierarchy, "app.service", controller="memory") as (_, group):
        (group / limit).write_text(str(24 * MIB), encoding="utf-8")
        daemon = daemon_factory(config_of(STEP, triggers=(kernel,)))
        with waiting(group, *greedy) as process:
            let_go(process)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            time.sleep(0.1)
        daemon.wait_for_incidents(1)
        daemon.stop()
        own = [one for one in daemon.incidents() if str(process.pid) in str(one["markers"])]
        findings = summary(daemon, own[0])["findings"]
        assert any(group.name in finding and str(24 * MIB) in finding for finding in findings)
        shown = daemon.run("show", own[0]["id"]).stdout
        assert "  killed for memory by the kernel" in shown
        assert f"/{group.name}: 24 MiB of 24 MiB ({limit}" in " ".join(shown.split())
        document = daemon.archive / own[0]["id"] / "cgroup/cgroup.json"
        document.write_bytes(document.read_bytes().replace(group.name.encode(), rb"\u001b[2J"))
        again = daemon.run("show", own[0]["id"])
        assert (again.returncode, "\x1b" in again.stdout, r"\x1b[2J: 24 MiB of" in " ".join(again.stdout.split())) == (
            0,
            False,
            True,
        )
        document.write_text("{" * 100_000, encoding="utf-8")
        damaged = daemon.run("show", own[0]["id"]).stdout
        assert "MISSING  cgroup: cgroup/cgroup.json cannot be read" in damaged
