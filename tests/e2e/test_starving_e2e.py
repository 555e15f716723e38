"""The daemon on a machine that appears short of memory, with and without stalls."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from false_memory import FalseMemory
from harness import Daemon, Victim, segment, steps_of, wait_for
from machine import core_pattern

MIB = 1 << 20
SEGMENT = 8 * MIB
LIGHT = ["memory", "processes", "process", "kernel_log"]
pytestmark = pytest.mark.root


@pytest.fixture
def daemon(daemon_factory: Callable[..., Daemon]) -> Daemon:
    return daemon_factory(start=False)


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[str]:
    with segment("starving", SEGMENT, {0: os.urandom(SEGMENT)}) as path:
        yield path


def crash(daemon: Daemon, crasher: Path, mapped: str) -> None:
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        Victim(crasher, mapped).die()


def copied(daemon: Daemon, manifest: dict[str, Any], mapped: str) -> bool:
    """Return whether the archived segment has the same content."""
    artifacts = {artifact.get("source"): artifact["path"] for artifact in steps_of(manifest)["segments"]["artifacts"]}
    copy = daemon.archive / manifest["id"] / artifacts[mapped]
    return copy.read_bytes() == Path(mapped).read_bytes()


def test_starving_machine_without_stalls_is_collected_completely(daemon: Daemon, crasher: Path, mapped: str) -> None:
    """200 MiB available, no stalls: the incident is complete, with the segment, and no step waited."""
    FalseMemory(daemon.directory, available=200 * MIB, room=150 * MIB).start(daemon)
    crash(daemon, crasher, mapped)
    (manifest,) = daemon.wait_for_incidents(1, timeout_s=60)
    assert manifest["state"] == "complete"
    assert copied(daemon, manifest, mapped)
    assert not [event for event in daemon.events() if event["event"] == "step.waiting"]
    verdict = steps_of(manifest)["segments"]["verdict"]
    assert verdict["available_bytes"] == 200 * MIB
    assert verdict["room_bytes"] == 150 * MIB
    read_s = [artifact["read_s"] for step in LIGHT for artifact in steps_of(manifest)[step]["artifacts"]]
    assert max(read_s) < min(artifact["read_s"] for artifact in steps_of(manifest)["segments"]["artifacts"])


def test_starving_machine_with_stalls_has_light_steps_read_before_bulk_waits(
    daemon: Daemon, crasher: Path, mapped: str
) -> None:
    """Under stalls, light steps are archived immediately and the segment after they end; the manifest says so."""
    memory = FalseMemory(daemon.directory, available=200 * MIB, room=150 * MIB)
    memory.start(daemon)
    time.sleep(0.6)  # until the daemon has read the counter
    crashing = threading.Thread(target=crash, args=(daemon, crasher, mapped))
    crashing.start()
    stalls = itertools.count(100, 10)
    wait_for(lambda: memory.stall(next(stalls)) or waiting(daemon), "step that waits")
    crashing.join()
    ended = [event["step"] for event in daemon.events() if event["event"] == "step.finished"]
    assert set(ended) >= set(LIGHT), "light steps are archived before anything waits"
    (manifest,) = daemon.wait_for_incidents(1, timeout_s=60)
    assert manifest["state"] == "complete"
    assert copied(daemon, manifest, mapped)
    bulk = [steps_of(manifest)[step] for step in ("core", "segments")]
    assert bulk[0]["verdict"]["waited_s"] > 0
    assert len(waiting(daemon)) == 1, "the second step must not wait again"


def test_starving_machine_with_lasting_stalls_has_its_segment_copied_at_a_trickle(
    daemon: Daemon, crasher: Path, mapped: str
) -> None:
    """After the wait the copy continues at a trickle; the manifest has each change and its reason."""
    daemon.config.write_text(daemon.config.read_text().replace("wait: 30s", "wait: 1s"))
    memory = FalseMemory(daemon.directory, available=200 * MIB, room=150 * MIB)
    memory.start(daemon)
    time.sleep(0.6)
    memory.stall(100)
    crash(daemon, crasher, mapped)
    stalls = 100

    def sealed() -> list[dict[str, Any]]:
        nonlocal stalls
        stalls += 10  # as long as the copy runs
        memory.stall(stalls)
        return daemon.incidents()

    (manifest,) = wait_for(sealed, "incident", timeout_s=60)
    assert copied(daemon, manifest, mapped)
    step = steps_of(manifest)["segments"]
    assert (step["verdict"]["decision"], step["verdict"]["speed"]) == ("proceed", "trickle")
    assert step["speed_changes"][0]["advice"] == "trickle"
    assert "direct reclaim" in step["speed_changes"][0]["reason"]
    assert [artifact["slow_downs"] for artifact in step["artifacts"] if artifact.get("source") == mapped] == [1]


def test_starving_machine_without_room_collects_what_still_fits(daemon: Daemon, crasher: Path, mapped: str) -> None:
    """12 MiB before reclaim: a step that needs 4 MiB runs, one that needs 8 MiB is skipped, with the reason."""
    daemon.config.write_text(daemon.config.read_text().replace("wait: 30s", "wait: 1s"))
    FalseMemory(daemon.directory, available=0, room=12 * MIB).start(daemon)
    crash(daemon, crasher, mapped)
    (manifest,) = daemon.wait_for_incidents(1, timeout_s=60)
    steps = steps_of(manifest)
    assert (steps["memory"]["status"], steps["kernel_log"]["status"]) == ("ok", "ok")
    assert steps["process"]["status"] == "skipped"
    assert "12.0 MiB are free before reclaim" in steps["process"]["reason"]
    assert manifest["state"] == "incomplete"


def waiting(daemon: Daemon) -> list[dict[str, Any]]:
    return [event for event in daemon.events() if event["event"] == "step.waiting"]
