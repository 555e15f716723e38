"""The gate on a real machine: a ballast in `/dev/shm` takes the memory that the floor wants."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import COLLECTOR, meminfo, segment, wait_for

MIB = 1 << 20
BALLAST = 4096 * MIB
"""Half of it is what the memory of the machine may move by itself meanwhile: 700 MiB were seen."""

pytestmark = pytest.mark.root

CONFIG = """
version: 1
archive: {{path: {archive}, reserve: 0%}}
pressure: {{floor: 64MiB, psi_full: 100%}}
pipelines:
  crash:
    steps:
      - {{id: memory, collector: proc_files}}
      - id: segments
        collector: shm
        pressure: {{floor: {floor}, on_pressure: {policy}, wait: 30s}}
        with: {{from: none, segments: ["pressed-*"]}}
"""


@contextmanager
def ballast() -> Iterator[None]:
    """Hold so much memory in `/dev/shm`."""
    path = f"/dev/shm/ballast-{os.getpid()}"
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, BALLAST)
        yield
    finally:
        os.unlink(path)


def configure(directory: Path, policy: str) -> Path:
    """Set the floor so that the ballast, and nothing else, is what breaks it."""
    floor = meminfo()["MemAvailable"] - BALLAST // 2
    path = directory / "collector.yaml"
    path.write_text(CONFIG.format(archive=directory / "archive", floor=floor, policy=policy))
    return path


def command(config: Path, *more: str) -> list[str]:
    return [*COLLECTOR, "run", "--now", "--config", str(config), *more]


def test_run_skips_the_step_below_the_floor_and_collects_the_rest(tmp_path: Path) -> None:
    """Exit 3; the manifest has the numbers that the verdict rested on."""
    config = configure(tmp_path, "skip")
    with segment("pressed", MIB, {0: b"data"}), ballast():
        done = subprocess.run(command(config, "--json"), capture_output=True, text=True, check=False)
        only = subprocess.run(command(config, "--json", "--only", "shm"), capture_output=True, text=True, check=False)
    assert (done.returncode, only.returncode) == (3, 3), done.stderr + only.stderr
    result = json.loads(done.stdout)
    memory, segments = result["steps"]
    assert memory["status"] == "ok"
    assert segments["status"] == "skipped"
    assert "below the floor" in segments["reason"]
    manifest = json.loads(Path(result["path"], "manifest.json").read_text())
    verdict = manifest["steps"][1]["verdict"]
    assert verdict["available_bytes"] - verdict["budget_bytes"] < verdict["floor_bytes"]
    assert [step["id"] for step in json.loads(only.stdout)["steps"]] == ["segments"]


def test_run_waits_and_collects_when_memory_comes_back(tmp_path: Path) -> None:
    """`on_pressure: wait`: the step waits for the ballast to go, and says how long it did."""
    config = configure(tmp_path, "wait")
    with segment("pressed", MIB, {0: b"data"}):
        with ballast():
            running = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert running.stderr is not None
            wait_for(lambda: "waits:" in running.stderr.readline(), "waiting step")
        path, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    manifest = json.loads(Path(path.strip(), "manifest.json").read_text())
    step = next(step for step in manifest["steps"] if step["id"] == "segments")
    assert step["status"] == "ok"
    assert step["verdict"]["waited_s"] > 0
