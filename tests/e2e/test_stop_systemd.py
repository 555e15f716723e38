"""The service and systemd: a restart, and a shutdown of the machine, in the middle of a copy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configuration import TABLE, config_of
from harness import segment, steps_of, wait_for
from systemd_machine import PLAIN, Machine

MIB = 1 << 20
pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

DOWN = f"{PLAIN}Conflicts=shutdown.target\nBefore=shutdown.target\n"
"""What the default dependencies of the service are on other machines."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    opened = Machine(tmp_path, {"shutdown.target": PLAIN, "collector.service.d/down.conf": DOWN})
    yield opened
    opened.close()


def begin(machine: Machine, name: str, **runtime: str) -> None:
    """Have the service collect a segment of 24 MiB within 3 s, and wait until it does."""
    text = config_of(
        TABLE,
        f"{{id: segments, collector: shm, with: {{from: none, segments: [{name}]}}}}",
        triggers=(),
        copy={"rate": "8MiB/s"},
        runtime={"directory": "/run/collector", **runtime},
        archive={"path": "/var/lib/collector"},
    )
    done = machine.configure(text)
    assert done.returncode == 0, done.stderr
    machine.run("systemd-run", "--no-block", "-p", "DefaultDependencies=no", "collector", "run", "--now")
    part = "*.partial/segments/segments/0001.part"
    wait_for(lambda: [one for one in machine.archive.glob(part) if one.stat().st_blocks], "copy under way")


def by_hand(machine: Machine) -> list[dict[str, Any]]:
    """Return the manifests of runs by hand: the shipped file, in force before, sees others' OOM kills as well."""
    return [manifest for manifest in machine.incidents() if manifest["markers"][0]["kind"] == "manual"]


def test_restart_in_the_middle_of_a_copy_loses_nothing(machine: Machine) -> None:
    """`systemctl restart`, as an upgrade does: the copy ends first, and systemctl says what it waits for."""
    data = os.urandom(24 * MIB)
    with segment("restarted", len(data), {0: data}) as path:
        begin(machine, os.path.basename(path))
        machine.run("systemctl", "restart", "--no-block", "collector.service")
        wait_for(lambda: "stopping: up to" in machine.show("collector.service", "StatusText"), "status of the stop")
        wait_for(lambda: by_hand(machine), "incident")
    (manifest,) = by_hand(machine)
    assert manifest["state"] == "complete", manifest
    kept = machine.archive / manifest["id"] / "segments/segments/0001"
    assert kept.read_bytes() == data
    wait_for(lambda: machine.show("collector.service", "ActiveState") == "active", "restarted service")


def test_grace_alone_is_enough_where_the_unit_allows_less(machine: Machine) -> None:
    """The key is longer than the unit's TimeoutStopSec=: the daemon asks systemd for the time."""
    drop_in = "[Service]\\nTimeoutStopSec=1s\\n"
    make = f"mkdir -p /run/units/collector.service.d; printf '{drop_in}' > /run/units/collector.service.d/stop.conf"
    machine.run("bash", "-c", f"{make}; systemctl daemon-reload")
    assert machine.show("collector.service", "TimeoutStopUSec") == "1s"
    data = os.urandom(24 * MIB)
    with segment("patient", len(data), {0: data}) as path:
        begin(machine, os.path.basename(path))
        machine.run("systemctl", "stop", "collector.service")
    (manifest,) = by_hand(machine)
    assert manifest["state"] == "complete", manifest
    assert machine.show("collector.service", "Result") == "success"


def test_shutdown_seals_at_once(machine: Machine) -> None:
    """There is no next start of this boot: what there is must be sealed now."""
    data = os.urandom(24 * MIB)
    with segment("down", len(data), {0: data}) as path:
        begin(machine, os.path.basename(path))
        machine.run("systemctl", "start", "--no-block", "shutdown.target")
        wait_for(lambda: by_hand(machine), "incident")
    (manifest,) = by_hand(machine)
    assert manifest["state"] == "interrupted"
    assert steps_of(manifest)["segments"]["status"] == "truncated"
    assert not list(machine.archive.glob("*.partial"))
