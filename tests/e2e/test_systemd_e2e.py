"""The units as shipped, under a real systemd: the service itself, and what tells it of units that failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import wait_for
from systemd_machine import COLLECTOR, UNITS, Machine

from collector.pipeline.generation import generate
from collector.triggers.registry import TRIGGERS

CONFIG = """
version: 1
pressure: {floor: 64MiB}
storm: {coalesce: 0s}
triggers:
  - {id: told, type: notify, pipeline: crash}
pipelines:
  crash:
    steps:
      - {id: memory, collector: proc_files}
"""
FAILS = '[Service]\nExecStart=/bin/sh -c "kill -SEGV $$$$"\n'
SUCCEEDS = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
ON_FAILURE = "[Unit]\nOnFailure=collector-notify@%n.service\n"
EXEC_STOP_POST = (UNITS / "examples/notify-on-crash.conf").read_text().replace("/usr/bin/collector", str(COLLECTOR))
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    units = {}
    for name, hook in (("on_failure", ON_FAILURE), ("exec_stop_post", EXEC_STOP_POST)):
        units |= {f"{name}.service": FAILS, f"{name}.service.d/hook.conf": hook}
        units |= {f"good_{name}.service": SUCCEEDS, f"good_{name}.service.d/hook.conf": hook}
    if any(map(COLLECTOR.is_relative_to, ("/tmp", "/var/tmp"))):  # which the unit as shipped does not see
        units["collector-notify@.service.d/test.conf"] = "[Service]\nPrivateTmp=no\n"
    opened = Machine(tmp_path_factory.mktemp("machine"), units)
    yield opened
    opened.close()


def test_service_starts_sandboxed_and_says_so(machine: Machine) -> None:
    """Type=notify: active means that it watches; nothing that it needs is taken away by its sandbox."""
    assert machine.show("collector.service", "StatusText") == "watching"
    assert machine.show("collector.service", "NRestarts") == "0"
    done = machine.run("collector", "run", "--now", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["path"].startswith("/var/lib/collector/")


@pytest.mark.parametrize("way", ["on_failure", "exec_stop_post"])
def test_service_archives_what_systemd_tells(machine: Machine, way: str) -> None:
    """A unit dies; the incident knows which unit it was, and how it ended. One that succeeds tells nothing."""
    assert machine.configure(CONFIG).returncode == 0
    before = len(machine.incidents())
    machine.run("systemctl", "start", f"good_{way}.service")
    machine.run("systemctl", "start", f"{way}.service")
    (manifest,) = wait_for(lambda: machine.incidents()[before:], "incident")
    (marker,) = manifest["markers"]
    assert (marker["trigger"], marker["unit"], marker["signal"]) == ("told", f"{way}.service", signal.SIGSEGV)


def test_service_keeps_its_configuration_when_a_reload_fails(machine: Machine) -> None:
    """`systemctl reload` fails on a bad file, the daemon goes on with the old one."""
    assert machine.configure(CONFIG).returncode == 0
    assert machine.configure(CONFIG + "bogus: 1").returncode != 0
    status = json.loads(machine.run("collector", "status", "--json").stdout)
    assert "bogus" in status["config_problem"]
    assert status["triggers"] == {"told": "watching"}
    assert machine.configure(CONFIG).returncode == 0


def test_archive_is_no_mount_of_its_own(machine: Machine) -> None:
    """Or every core would be copied: link(2) does not cross mounts. The test's own bind mount aside."""
    pid = machine.show("collector.service", "MainPID")
    mounts = machine.run("cat", f"/proc/{pid}/mountinfo").stdout.splitlines()
    points = [line.split()[4] for line in mounts]
    assert points.count("/var/lib/collector") == 1


def test_service_outlives_a_worker_that_memory_cost(machine: Machine) -> None:
    """Workers volunteer to be killed; systemd would stop the whole service for one that is (OOMPolicy=stop)."""
    assert machine.show("collector.service", "OOMPolicy") == "continue"


def test_service_is_not_started_again_and_again_with_a_bad_configuration(machine: Machine) -> None:
    """Only a person can mend it: the unit fails once, and says with what."""
    assert machine.configure(CONFIG).returncode == 0
    machine.configure(CONFIG + "bogus: 1")
    assert machine.run("systemctl", "restart", "collector.service").returncode != 0
    time.sleep(3)  # RestartSec=2s
    assert machine.show("collector.service", "ActiveState") == "failed"
    assert machine.show("collector.service", "ExecMainStatus") == "78"
    assert machine.show("collector.service", "NRestarts") == "0"
    assert machine.configure(CONFIG).returncode != 0  # not running
    assert machine.run("systemctl", "start", "collector.service").returncode == 0


def test_examples_let_cores_appear_where_the_shipped_configuration_looks(tmp_path: Path) -> None:
    """The directory as the kernel needs it, and a pattern that leads there; both survive a reboot."""
    tmpfiles = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "examples/tmpfiles.conf")]
    subprocess.run(tmpfiles, check=True, capture_output=True)
    assert (tmp_path / "var/crash").stat().st_mode & 0o7777 == 0o1733
    (line,) = [line for line in (UNITS / "examples/sysctl.conf").read_text().splitlines() if not line.startswith("#")]
    name, _, pattern = line.partition(" = ")
    assert (name, os.path.dirname(pattern)) == ("kernel.core_pattern", "/var/crash")
    (cores,) = generate(None, TRIGGERS).triggers
    assert "/var/crash" in cores.trigger.paths
