"""The shipped units under a real systemd: the service, and the hooks that notify it of failed units."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from configuration import MEMORY, NOTIFY, config_of
from harness import wait_for
from machine import core_pattern
from systemd_machine import COLLECTOR, UNITS, Machine

from collector.pipeline.generation import generate
from collector.triggers.registry import TRIGGERS

CONFIG = (
    config_of(MEMORY, triggers=(NOTIFY,))
    .replace("$archive", "/var/lib/collector")
    .replace("$runtime", "/run/collector")
)
SHIPPED_FILE = (UNITS.parent / "config" / "collector.yaml").read_text(encoding="utf-8")
FAILS = '[Service]\nExecStart=/bin/sh -c "kill -SEGV $$$$"\n'
SUCCEEDS = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
RUNS = "[Service]\nExecStart=/bin/sleep infinity\nLimitCORE="
ON_FAILURE = "[Unit]\nOnFailure=collector-notify@%n.service\n"
EXEC_STOP_POST = (UNITS / "examples/notify-on-crash.conf").read_text().replace("/usr/bin/collector", str(COLLECTOR))
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    units = {}
    for name, hook in (("on_failure", ON_FAILURE), ("exec_stop_post", EXEC_STOP_POST)):
        units |= {f"{name}.service": FAILS, f"{name}.service.d/hook.conf": hook}
        units |= {f"good_{name}.service": SUCCEEDS, f"good_{name}.service.d/hook.conf": hook}
    if any(map(COLLECTOR.is_relative_to, ("/tmp", "/var/tmp"))):  # hidden by the unit's PrivateTmp=
        units["collector-notify@.service.d/test.conf"] = "[Service]\nPrivateTmp=no\n"
    units |= {"engine.service": f"{RUNS}0:infinity\n", "dumps.service": f"{RUNS}infinity\n"}
    opened = Machine(tmp_path_factory.mktemp("machine"), units)
    yield opened
    opened.close()


def test_service_starts_in_its_sandbox(machine: Machine) -> None:
    """Active means watching (Type=notify), and the sandbox allows everything that it needs."""
    # The proc connector answers in the initial network namespace only, and the machine has its own.
    assert machine.show("collector.service", "StatusText") == "degraded: deaths"
    assert machine.show("collector.service", "NRestarts") == "0"
    done = machine.run("collector", "run", "--now", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["path"].startswith("/var/lib/collector/")


@pytest.mark.parametrize("way", ["on_failure", "exec_stop_post"])
def test_service_archives_what_a_unit_reports(machine: Machine, way: str) -> None:
    """The incident of a failed unit names it, its main process and signal; a unit that succeeds reports nothing."""
    assert machine.configure(CONFIG).returncode == 0
    before = len(machine.incidents())
    machine.run("systemctl", "start", f"good_{way}.service")
    with core_pattern("core"):  # not another test's socket, which would hold the process
        machine.run("systemctl", "start", f"{way}.service")
        (manifest,) = wait_for(lambda: machine.incidents()[before:], "incident")
    (marker,) = manifest["markers"]
    assert (marker["trigger"], marker["unit"], marker["signal"]) == ("told", f"{way}.service", signal.SIGSEGV)
    assert marker["process"]["pid"] == int(machine.show(f"{way}.service", "ExecMainPID"))
    invocations = {value for key, value in marker["attributes"].items() if key.endswith("INVOCATION_ID")}
    assert invocations == {machine.show(f"{way}.service", "InvocationID")}


def test_service_keeps_its_configuration_when_a_reload_fails(machine: Machine) -> None:
    """`systemctl reload` fails on a bad file, and the daemon keeps the old configuration."""
    assert machine.configure(CONFIG).returncode == 0
    assert machine.configure(CONFIG + "bogus: 1").returncode != 0
    status = json.loads(machine.run("collector", "status", "--json").stdout)
    assert "bogus" in status["config_problem"]
    assert status["triggers"] == {"told": "watching"}
    assert machine.configure(CONFIG).returncode == 0


def test_service_writes_its_metrics_in_its_sandbox(machine: Machine) -> None:
    """By a process that is forked once a file is wanted; for everybody, in spite of UMask=."""
    machine.run("mkdir", "-m", "755", "/run/prom")
    assert machine.configure(f"{CONFIG}metrics: {{textfile: /run/prom/collector.prom}}\n").returncode == 0
    written = wait_for(lambda: machine.run("cat", "/run/prom/collector.prom").stdout, "file of metrics")
    assert "crash_collector_config_last_reload_successful 1\n" in written
    assert machine.run("stat", "-c", "%a", "/run/prom/collector.prom").stdout == "644\n"
    assert machine.configure(CONFIG).returncode == 0


def test_archive_is_not_a_separate_mount(machine: Machine) -> None:
    """link(2) does not cross mounts: every core would be copied. One bind mount is the test's."""
    pid = machine.show("collector.service", "MainPID")
    mounts = machine.run("cat", f"/proc/{pid}/mountinfo").stdout.splitlines()
    points = [line.split()[4] for line in mounts]
    assert points.count("/var/lib/collector") == 1


def test_doctor_does_not_count_on_a_trigger_that_is_degraded(machine: Machine) -> None:
    """The machine has a network namespace of its own, in which the kernel reports no exits."""
    assert machine.configure(SHIPPED_FILE).returncode == 0
    found = {one["about"]: one for one in json.loads(machine.run("collector", "doctor", "--json").stdout)}
    assert (found["crashes"]["level"], found["oom kills"]["level"]) == ("warning", "ok")
    assert found["crashes"]["said"] == "a crash that leaves no core is not noticed: degraded: deaths"


def test_doctor_names_the_services_that_leave_no_core(machine: Machine) -> None:
    """With the soft limit that systemd gives them by default; the collector's own is meant to be 0."""
    machine.run("systemctl", "start", "engine.service", "dumps.service")
    with core_pattern("/var/crash/core.%P"):
        found = json.loads(machine.run("collector", "doctor", "--json").stdout)
    (check,) = [one for one in found if one["about"] == "core limits"]
    assert check["level"] == "warning"
    assert "engine.service" in check["said"]
    assert "dumps.service" not in check["said"]
    assert "collector.service" not in check["said"]


def test_doctor_names_the_state_of_the_unit(machine: Machine) -> None:
    """A unit that has failed has no daemon: the reason stands beside it, and no crash is noticed."""
    assert machine.configure(CONFIG).returncode == 0
    machine.configure(CONFIG + "bogus: 1")
    machine.run("systemctl", "restart", "collector.service")
    failed = machine.run("collector", "doctor", "--strict", "--json")
    machine.configure(CONFIG)
    assert machine.run("systemctl", "start", "collector.service").returncode == 0
    said = [one["said"] for one in json.loads(failed.stdout) if one["about"] == "daemon"]
    assert "collector.service has failed (exit-code, exit status 78)" in said
    assert failed.returncode == 3


def test_service_survives_a_worker_killed_for_memory(machine: Machine) -> None:
    """Workers raise their oom_score_adj; with OOMPolicy=stop, systemd would stop the service when one is killed."""
    assert machine.show("collector.service", "OOMPolicy") == "continue"


def test_service_is_not_restarted_with_a_bad_configuration(machine: Machine) -> None:
    """Restarting cannot help: the unit fails once, with status 78."""
    assert machine.configure(CONFIG).returncode == 0
    machine.configure(CONFIG + "bogus: 1")
    assert machine.run("systemctl", "restart", "collector.service").returncode != 0
    time.sleep(3)  # RestartSec=2s
    assert machine.show("collector.service", "ActiveState") == "failed"
    assert machine.show("collector.service", "ExecMainStatus") == "78"
    assert machine.show("collector.service", "NRestarts") == "0"
    assert machine.configure(CONFIG).returncode != 0  # not running
    assert machine.run("systemctl", "start", "collector.service").returncode == 0


def test_examples_put_cores_where_the_shipped_configuration_looks(tmp_path: Path) -> None:
    """A directory with the right mode, and a core_pattern that points to it; both survive a reboot."""
    tmpfiles = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "tmpfiles.d/collector.conf")]
    subprocess.run(tmpfiles, check=True, capture_output=True)
    assert (tmp_path / "var/crash").stat().st_mode & 0o7777 == 0o1733
    (line,) = [line for line in (UNITS / "examples/sysctl.conf").read_text().splitlines() if not line.startswith("#")]
    name, _, pattern = line.partition(" = ")
    assert (name, os.path.dirname(pattern)) == ("kernel.core_pattern", "/var/crash")
    (paths,) = (one.trigger.paths for one in generate(None, TRIGGERS).triggers if one.id == "cores")
    assert "/var/crash" in paths
