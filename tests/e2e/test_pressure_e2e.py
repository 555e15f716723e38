"""A step's own floor, while available memory falls below it and recovers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from configuration import MEMORY, config_of, write_config
from false_memory import FalseMemory
from harness import COLLECTOR, segment, wait_for

MIB = 1 << 20
GIB = 1 << 30
pytestmark = pytest.mark.root

PRESSED = """
{id: segments, collector: shm, pressure: {floor: 1GiB, on_pressure: POLICY, wait: 30s},
 with: {from: none, segments: ["pressed-*"]}}
"""


@pytest.fixture
def memory(tmp_path: Path) -> FalseMemory:
    """Half of the floor is available, and no process stalls."""
    return FalseMemory(tmp_path, available=GIB // 2, room=GIB // 2)


def command(directory: Path, memory: FalseMemory, policy: str, *more: str) -> list[str]:
    path = write_config(directory, config_of(MEMORY, PRESSED.replace("POLICY", policy), triggers=()))
    return [*memory.prefix, *COLLECTOR, "run", "--now", "--config", str(path), *more]


def test_run_skips_the_step_below_its_floor_and_collects_the_rest(tmp_path: Path, memory: FalseMemory) -> None:
    """Exit status 3; the manifest has the numbers of the verdict."""
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
    """With `on_pressure: wait` the step waits for memory, and its verdict says how long."""
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
