"""What only a held process shows: shared memory of every kind, with a name or without, and all of `/proc/PID`."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from configuration import config_of
from harness import Daemon, Victim, steps_of
from machine import compiled, core_pattern

pytestmark = pytest.mark.root
WORDS = 1 << 17
KINDS = {1: "a named segment", 2: "an unlinked one", 3: "a memfd", 4: "shared anonymous memory", 5: "an open memfd"}
HELD = "{id: held, type: kernel_cores, pipeline: crash, mode: %s}"


def content(kind: int) -> bytes:
    """Return what keeper.c writes into memory of that *kind*."""
    return struct.pack(f"<{WORDS}Q", *range(kind << 32, (kind << 32) + WORDS))


@pytest.fixture
def keeper(tmp_path: Path) -> Path:
    return compiled(Path(__file__).parent / "keeper.c", tmp_path)


@pytest.fixture
def near() -> Iterator[dict[str, str]]:
    """Keep the runtime directory where a path to it is short: of core_pattern, the kernel keeps 127 bytes."""
    with tempfile.TemporaryDirectory(prefix="held-", dir="/tmp") as directory:
        yield {"directory": directory}


@pytest.fixture
def name() -> Iterator[Path]:
    path = Path(f"/dev/shm/keeper-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def archived(daemon: Daemon, manifest: dict[str, Any], step: str) -> dict[str, bytes]:
    """Return the files of a step, by their path in the incident."""
    (incident,) = daemon.archive.glob(f"{manifest['id']}")
    return {
        artifact["path"]: (incident / artifact["path"]).read_bytes()
        for artifact in steps_of(manifest)[step]["artifacts"]
    }


@pytest.mark.parametrize("mode", ["socket", "pipe"])
def test_all_shared_memory_of_a_held_process_is_archived(
    daemon_factory: Callable[..., Daemon], keeper: Path, name: Path, near: dict[str, str], mode: str
) -> None:
    """Byte by byte; and what `/proc` says of a process that lives."""
    with core_pattern("core"):
        daemon = daemon_factory(config_of(triggers=(HELD % mode,), runtime=near))
        pid = Victim(keeper, str(name)).die()
        (manifest,) = daemon.wait_for_incidents(1)
        daemon.stop()
    assert manifest["state"] == "complete", steps_of(manifest)
    segments = archived(daemon, manifest, "segments").values()
    assert [what for kind, what in KINDS.items() if content(kind) not in segments] == []
    process = archived(daemon, manifest, "process")
    assert b"[stack]" in process[f"process/{pid}/maps"]
    assert b"CoreDumping:\t1" in process[f"process/{pid}/status"]
    assert process[f"process/{pid}/environ"]
    assert manifest["hold"]["seconds"] > 0


def test_held_process_in_a_container_is_not_taken_for_the_host(
    daemon_factory: Callable[..., Daemon], keeper: Path, name: Path, near: dict[str, str]
) -> None:
    """It has PIDs and a /dev/shm of its own, and the host has a segment of the same name."""
    name.write_bytes(b"the host's" * 1000)
    inner = f"mount -t tmpfs none /dev/shm && exec {keeper} {name}"
    with core_pattern("core"):
        daemon = daemon_factory(config_of(triggers=(HELD % "socket",), runtime=near))
        process = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--fork", "sh", "-c", inner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.communicate()
        (manifest,) = daemon.wait_for_incidents(1)
        daemon.stop()
    segments = archived(daemon, manifest, "segments").values()
    assert [what for kind, what in KINDS.items() if content(kind) not in segments] == []
    assert not any(b"the host's" in segment for segment in segments)
    assert steps_of(manifest)["process"]["status"] == "ok"
