"""The shipped unit with the trigger `kernel_cores`: its sandbox allows all that a held process has to show."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import HERE, steps_of, wait_for
from machine import compiled, core_pattern, need
from systemd_machine import SERVICE, Machine, setting_units

from collector.host.core_pattern_owner import has_coredump_socket

ORIGINAL = f"original.{os.getpid()}.%P"
SHIPPED = (HERE.parents[1] / "config/collector.yaml").read_text(encoding="utf-8")
OFF = "  # - {id: held, type: kernel_cores, pipeline: crash}"
ON = OFF.replace("# ", "", 1)
KERNEL = "events: [oom_kill, core_lost, oops]"
"""Of the whole machine, other tests included."""

PROCESS = {"maps", "environ", "status", "stack", "io", "smaps", "threads.jsonl", "fds.jsonl"}
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not has_coredump_socket(os.uname().release), reason="needs Linux 6.17"),
]


class Held:
    """The machine with the shipped daemon, whose directory the kernel reaches by the same path."""

    def __init__(self, machine: Machine, directory: Path, keeper: Path) -> None:
        self.machine = machine
        self.config = directory / "collector.yaml"
        self.runtime = directory / "run"
        self.pattern = f"@@{self.runtime}/cores.sock"
        self._keeper = keeper

    def reload(self, line: str) -> None:
        configure(self.config, self.runtime, line)
        self.systemctl("reload", SERVICE)

    def systemctl(self, *arguments: str) -> None:
        done = self.machine.run("systemctl", *arguments)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def living(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process with shared memory of every kind; it crashes once its standard input is closed."""
        name = Path(f"/dev/shm/held-{os.getpid()}")
        command = self.machine.entering(str(self._keeper), str(name))
        try:
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                yield process
        finally:
            name.unlink(missing_ok=True)

    def crash(self) -> dict[str, Any]:
        """Let such a process crash; return the manifest of its incident."""
        before = len(self.machine.incidents())
        with self.living():
            pass
        return self.incident_after(before)

    def incident_after(self, before: int) -> dict[str, Any]:
        return wait_for(lambda: self.machine.incidents()[before:], "the incident", 30.0)[0]


def configure(config: Path, runtime: Path, line: str) -> None:
    text = SHIPPED.replace(OFF, line).replace(KERNEL, "events: [oops]")
    config.write_text(f"{text}\nruntime: {{directory: {runtime}}}\n", encoding="utf-8")


def in_force() -> str:
    return Path("/proc/sys/kernel/core_pattern").read_text(encoding="utf-8").rstrip("\n")


def wait_until_in_force(pattern: str) -> None:
    wait_for(lambda: in_force() == pattern, pattern, 5.0)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """The service, started without the trigger."""
    need("root")
    directory = Path(tempfile.mkdtemp(prefix="held-", dir="/tmp"))
    config, runtime = directory / "collector.yaml", directory / "run"
    runtime.mkdir(mode=0o700)
    service = (
        f"ExecStart=\nExecStart=/usr/bin/collector daemon --config {config}\n"
        f"ExecReload=\nExecReload=/usr/bin/collector config reload --config {config}\n"
    )
    units = setting_units(config, runtime) | {f"{SERVICE}.d/test.conf": f"[Service]\n{service}"}
    try:
        keeper = compiled(HERE / "keeper.c", directory)
        configure(config, runtime, OFF)
        with core_pattern(ORIGINAL):
            machine = Machine(tmp_path, units)
            try:
                yield Held(machine, directory, keeper)
            finally:
                machine.run("systemctl", "stop", SERVICE)
                machine.close()
    finally:
        shutil.rmtree(directory)
        Path(f"{runtime}.core_pattern").unlink(missing_ok=True)


def test_shipped_unit_collects_all_of_a_held_process(held: Held) -> None:
    """The line of the shipped file, switched on, changed and off by reloads; a crash while it restarts is not lost."""
    held.reload(ON)
    wait_until_in_force(held.pattern)
    is_whole(held.crash())
    with held.living() as process:
        before = len(held.machine.incidents())
        held.systemctl("--no-block", "restart", SERVICE)
        wait_for(lambda: held.machine.show(SERVICE, "SubState") != "running", "the stop")
        assert process.stdin is not None
        process.stdin.close()
    is_whole(held.incident_after(before))
    held.reload(ON.replace("}", ", hold: 20s}"))
    time.sleep(1.0)  # what the old trigger asked for is long done
    is_whole(held.crash())
    held.reload(OFF)
    wait_until_in_force(ORIGINAL)


def is_whole(manifest: dict[str, Any]) -> None:
    steps = steps_of(manifest)
    missing = {
        name: step.get("reason") for name, step in steps.items() if step["status"] not in {"ok", "not_applicable"}
    }
    # The process was started from outside the machine: its cgroup is not below the root of the machine's.
    assert missing in ({}, {"cgroup": "/.. is not below the mount point"})
    assert manifest["hold"]["seconds"] > 0
    paths = {name: {artifact["path"] for artifact in step.get("artifacts", ())} for name, step in steps.items()}
    assert {path.rpartition("/")[2] for path in paths["process"]} >= PROCESS
    assert "core/core" in paths["core"]
    assert len([path for path in paths["segments"] if path.startswith("segments/segments/")]) == 5
