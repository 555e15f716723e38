"""The units as shipped, under a real systemd: PID 1 of its own namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import HERE, wait_for

UNITS = HERE.parents[1] / "systemd"
CGROUP = Path("/sys/fs/cgroup/unified")
COLLECTOR = Path(sys.executable).parent / "collector"
CONFIG = """
version: 1
pressure: {floor: 64MiB, psi_full: 100%}
triggers:
  - {id: told, type: notify, pipeline: crash}
pipelines:
  crash:
    steps:
      - {id: memory, collector: proc_files}
"""
pytestmark = pytest.mark.root


class Machine:
    """A booted systemd."""

    def __init__(self, scratch: Path) -> None:
        self.archive = scratch / "archive"
        self._log = (scratch / "console").open("w")
        cgroups = CGROUP if CGROUP.is_dir() else Path("/sys/fs/cgroup")
        self._cgroup = cgroups / f"collector-test-{os.getpid()}"
        self._cgroup.mkdir()
        join = f'echo 0 > {self._cgroup}/cgroup.procs; exec "$@"'
        spaces = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        boot = ["bash", str(HERE / "boot_systemd.sh"), str(scratch), str(scratch / "units"), str(COLLECTOR)]
        self._unshare = subprocess.Popen(
            ["bash", "-c", join, "bash", *spaces, *boot],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self._init = wait_for(self._find_init, "PID 1")

    def _find_init(self) -> str:
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        return children[0] if children else ""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        enter = ["nsenter", "-t", self._init, "-p", "-m", "-u", "-i", "-C"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=60)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", unit, "-p", name, "--value").stdout.strip()

    def incidents(self) -> list[dict[str, Any]]:
        """Return the manifests in the archive."""
        return [json.loads(path.read_text()) for path in sorted(self.archive.glob("*Z-??????/manifest.json"))]

    def close(self) -> None:
        """Pull the plug."""
        self._unshare.kill()
        self._unshare.wait()
        self._log.close()
        wait_for(self._remove_cgroups, "end of the machine's processes")

    def _remove_cgroups(self) -> bool:
        for directory, _, _ in os.walk(self._cgroup, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                return False
        return True


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    scratch = tmp_path_factory.mktemp("machine")
    (scratch / "units").mkdir()
    for unit in UNITS.glob("*.service"):
        # A developer's interpreter may live in a home, which the shipped units do not see.
        (scratch / "units" / unit.name).write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHome=read-only"))
    (scratch / "units/engine.service").write_text(
        "[Unit]\nOnFailure=collector-notify@%n.service\n[Service]\nExecStart=/bin/sh -c 'kill -SEGV $$$$'\n"
    )
    opened = Machine(scratch)
    try:
        wait_for(lambda: opened.show("collector.service", "ActiveState") == "active", "active collector.service")
        yield opened
    finally:
        opened.close()


def configure(machine: Machine, text: str) -> subprocess.CompletedProcess[str]:
    """Write the configuration and have the service reload it."""
    script = f"mkdir -p /etc/collector\ncat > /etc/collector/collector.yaml <<'EOF'\n{text}\nEOF\n"
    return machine.run("bash", "-c", f"{script}systemctl reload collector.service")


def test_service_starts_sandboxed_and_says_so(machine: Machine) -> None:
    """Type=notify: active means that it watches; nothing that it needs is taken away by its sandbox."""
    assert machine.show("collector.service", "StatusText") == "watching"
    assert machine.show("collector.service", "NRestarts") == "0"
    done = machine.run("collector", "run", "--now", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["path"].startswith("/var/lib/collector/")


def test_service_archives_what_on_failure_tells(machine: Machine) -> None:
    """A unit dies; systemd starts the notifying unit; the incident knows which unit it was, and how it ended."""
    assert configure(machine, CONFIG).returncode == 0
    before = len(machine.incidents())
    machine.run("systemctl", "start", "engine.service")
    manifest = wait_for(lambda: machine.incidents()[before:], "incident")[0]
    (marker,) = manifest["markers"]
    assert (marker["trigger"], marker["unit"]) == ("told", "engine.service")
    assert marker["signal"] == 11


def test_service_keeps_its_configuration_when_a_reload_fails(machine: Machine) -> None:
    """`systemctl reload` fails on a bad file, the daemon goes on with the old one."""
    assert configure(machine, CONFIG).returncode == 0
    assert configure(machine, CONFIG + "bogus: 1").returncode != 0
    status = json.loads(machine.run("collector", "status", "--json").stdout)
    assert "bogus" in status["config_problem"]
    assert status["triggers"] == {"told": "watching"}
    assert configure(machine, CONFIG).returncode == 0
