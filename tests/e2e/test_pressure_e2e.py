"""The floor that a step may have of its own, on a machine whose memory goes and comes back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from false_memory import FalseMemory
from harness import COLLECTOR, segment, wait_for

MIB = 1 << 20
GIB = 1 << 30
pytestmark = pytest.mark.root

CONFIG = """
version: 1
archive: {{path: {archive}, reserve: 0%}}
pipelines:
  crash:
    steps:
      - {{id: memory, collector: proc_files}}
      - id: segments
        collector: shm
        pressure: {{floor: 1GiB, on_pressure: {policy}, wait: 30s}}
        with: {{from: none, segments: ["pressed-*"]}}
"""


@pytest.fixture
def memory(tmp_path: Path) -> FalseMemory:
    """Half of what the floor wants, and nobody in distress."""
    return FalseMemory(tmp_path, available=GIB // 2, room=GIB // 2)


def command(directory: Path, memory: FalseMemory, policy: str, *more: str) -> list[str]:
    path = directory / "collector.yaml"
    path.write_text(CONFIG.format(archive=directory / "archive", policy=policy))
    return [*memory.prefix, *COLLECTOR, "run", "--now", "--config", str(path), *more]


def test_run_skips_the_step_below_its_floor_and_collects_the_rest(tmp_path: Path, memory: FalseMemory) -> None:
    """Exit 3; the manifest has the numbers that the verdict rested on."""
    with segment("pressed", MIB, {0: b"data"}):
        skipping = command(tmp_path, memory, "skip", "--json")
        done = subprocess.run(skipping, capture_output=True, text=True, check=False)
        only = subprocess.run([*skipping, "--only", "shm"], capture_output=True, text=True, check=False)
    assert (done.returncode, only.returncode) == (3, 3), done.stderr + only.stderr
    result = json.loads(done.stdout)
    first, segments = result["steps"]
    assert first["status"] == "ok"
    assert segments["status"] == "skipped"
    assert "below the floor" in segments["reason"]
    manifest = json.loads(Path(result["path"], "manifest.json").read_text())
    verdict = manifest["steps"][1]["verdict"]
    assert verdict["available_bytes"] - verdict["budget_bytes"] < verdict["floor_bytes"]
    assert [step["id"] for step in json.loads(only.stdout)["steps"]] == ["segments"]


def test_run_waits_and_collects_when_memory_comes_back(tmp_path: Path, memory: FalseMemory) -> None:
    """`on_pressure: wait`: the step waits until there is enough again, and says how long it did."""
    with segment("pressed", MIB, {0: b"data"}):
        waiting = command(tmp_path, memory, "wait")
        running = subprocess.Popen(waiting, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stderr is not None
        wait_for(lambda: "waits:" in running.stderr.readline(), "waiting step")
        memory.offer(4 * GIB)
        path, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    manifest = json.loads(Path(path.strip(), "manifest.json").read_text())
    step = next(step for step in manifest["steps"] if step["id"] == "segments")
    assert step["status"] == "ok"
    assert step["verdict"]["waited_s"] > 0
