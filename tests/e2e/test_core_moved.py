"""A core that its site compresses, moves or writes in rounds: one incident with the whole core."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, CORES, HOLD, UNBOUNDED, config_of
from copying_fixtures import mounted
from harness import Daemon, Victim, held, steps_of, wait_for
from machine import core_pattern, need
from test_core_rewritten import core_of, handler

pytestmark = pytest.mark.root
HANDLERS = {
    "zstd": "cat > $cores/core.zstd; zstd -q --rm $cores/core.zstd",
    "gzip": "cat > $cores/core.gzip; gzip $cores/core.gzip",
    "xz": "cat > $cores/core.xz_; xz -0 $cores/core.xz_",
    "stream": "cat > $cores/core.stream; gzip -c $cores/core.stream > $cores/core.stream.gz; rm $cores/core.stream",
    "temporary": "cat > $cores/.core.tmp; mv $cores/.core.tmp $cores/core.temporary",
    "matching": "cat > $cores/core.tmp; mv $cores/core.tmp $cores/core.matching",
    "rounds": "for n in 1 2 3 4; do dd bs=16k count=1 iflag=fullblock >> $cores/core.rounds; sleep 0.4; done\n"
    "cat >> $cores/core.rounds",
    "away": "cat > $cores/core.away; mv $cores/core.away $cores/../away",
    "inside": "cat > $cores/core.inside; mkdir $cores/old; mv $cores/core.inside $cores/old/core",
    "one file": "cat > $cores/core.engine; gzip -f $cores/core.engine",
    "one file again": "cat > $cores/core.engine; gzip -f $cores/core.engine",
}
POLLS_S = 4.5
"""Longer than it takes to decide that a file is no known core, compressed or moved."""


def test_core_that_its_handler_compresses_or_moves_is_one_incident(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """Each crash has one incident, with its PID, its threads and the last byte of its core."""
    need("zstd")
    daemon = daemon_factory(config_of(CORE, triggers=(CORES,), storm=UNBOUNDED))
    pids: dict[int, str] = {}
    for name, script in HANDLERS.items():
        with handler(daemon, script):
            pids[Victim(crasher).die()] = name
            daemon.wait_for_incidents(len(pids))
    time.sleep(POLLS_S)
    manifests = daemon.incidents()
    assert len(manifests) == len(pids), [one["markers"][0]["core"]["path"] for one in manifests]
    for manifest, (pid, name) in zip(manifests, pids.items(), strict=True):
        assert manifest["state"] == "complete", (name, steps_of(manifest)["core"])
        assert pid_told(daemon, manifest) == pid, name
    assert daemon.ledger("fate") == [("collected",)] * len(pids)


def pid_told(daemon: Daemon, manifest: dict[str, Any]) -> int:
    core = json.loads((daemon.archive / manifest["id"] / "core/core.json").read_text(encoding="utf-8"))
    assert not core.get("problem"), core
    assert not core.get("cut_off"), core
    return int(core["pid"])


WHILE_IT_WAITS = {
    "compressed": ("zstd -q --rm core.engine", None),
    "renamed": ("mv core.engine core.renamed", None),
    "moved": ("mv core.engine ../away", None),
    "moved to another file system": ("mv core.engine ../disk/renamed", None),
    "compressed elsewhere": ("zstd -q --rm core.engine -o ../disk/core.engine.zst", None),
    "moved with its directory": ("mkdir ../inner && mv core.engine ../inner/ && mv ../inner ../elsewhere", None),
    "deleted": ("rm core.engine", "is gone"),
    "emptied": (": > core.engine", "was overwritten"),
    "rewritten": ("head -c 1M /dev/urandom > core.engine", "was overwritten"),
}


@pytest.mark.parametrize(("command", "why"), WHILE_IT_WAITS.values(), ids=list(WHILE_IT_WAITS))
def test_core_that_changes_while_its_incident_waits(
    daemon_factory: Callable[..., Daemon], crasher: Path, command: str, why: str | None
) -> None:
    """Whole wherever it has gone to; if it is lost, the step says so, and its notes are kept."""
    need("zstd")
    cores = CORES.replace("[$cores]", "[$cores, $directory/disk]")
    daemon = daemon_factory(config_of(HOLD, CORE, triggers=(cores,)), start=False)
    os.mkfifo(daemon.directory / "hold")
    disk = daemon.directory / "disk"
    disk.mkdir()
    with mounted("test", disk, "tmpfs", "size=8m"):
        daemon.start()
        check_while_it_waits(daemon, crasher, command, why)
        daemon.kill()


def check_while_it_waits(daemon: Daemon, crasher: Path, command: str, why: str | None) -> None:
    with handler(daemon, "cat > $cores/core.engine"):
        pid = Victim(crasher).die()
        with held(daemon.directory / "hold"):
            subprocess.run(["sh", "-ec", command], cwd=daemon.cores, check=True)
        manifest = daemon.wait_for_incidents(1)[0]
    step = steps_of(manifest)["core"]
    assert pid_told(daemon, manifest) == pid
    if why is not None:
        assert (step["status"], why in step["reason"]) == ("failed", True), step
        assert "core/core" not in [one["path"] for one in step["artifacts"]]
        return
    assert step["status"] == "ok", step
    kept = daemon.archive / manifest["id"] / "core/core"
    if kept.read_bytes()[:4] != b"\x7fELF":
        plain = kept.with_name("plain")
        subprocess.run(["zstd", "-q", "-d", kept, "-o", plain], check=True)
        kept.unlink()
        plain.rename(kept)
    assert core_of(daemon, manifest)[0] == pid


def test_core_that_is_compressed_while_the_daemon_is_down_is_not_collected_again(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """The scan at the start finds another file; what was reported is remembered in the ledger."""
    daemon = daemon_factory(config_of(CORE, triggers=(CORES,), storm=UNBOUNDED))
    with core_pattern(f"{daemon.cores}/core.%P"):
        pid = Victim(crasher).die()
        daemon.wait_for_incidents(1)
        daemon.stop()
        subprocess.run(["gzip", daemon.cores / f"core.{pid}"], check=True)
        daemon.start()
        last = Victim(crasher).die()
        manifests = daemon.wait_for_incidents(2)
    time.sleep(POLLS_S)
    assert [pid_told(daemon, manifest) for manifest in manifests] == [pid, last]
    wait_for(lambda: daemon.ledger("fate") == [("collected",)] * 2, "two markers")
    assert len(daemon.incidents()) == 2
