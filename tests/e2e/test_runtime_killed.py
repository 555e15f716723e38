"""The supervisor is killed at random moments of an incident; after each restart, the archive is consistent."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from configuration import CORE, KERNEL_LOG, MEMORY, TABLE, UNBOUNDED, config_of
from harness import Daemon, wait_for

from collector.model.case import Fate

KILLS = 200
SEED = 4
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = config_of(
    MEMORY,
    TABLE,
    KERNEL_LOG,
    CORE,
    "{id: bulk, collector: files, with: {paths: [$directory/bulk], max_bytes: 64MiB}}",
    archive={"keep": {"count": None}},
    storm=UNBOUNDED,
)


def rows(daemon: Daemon) -> list[tuple[str, str, str | None]]:
    """Return core path, fate and incident of every marker."""
    return daemon.ledger("json_extract(marker, '$.core.path'), fate, incident")


def settled(daemon: Daemon, count: int) -> list[tuple[str, str, str | None]] | None:
    """Return the ledger once *count* markers have their final fate."""
    found = rows(daemon)
    return found if len(found) == count and not any(Fate(fate).open for _, fate, _ in found) else None


def check(daemon: Daemon, count: int, known: dict[str, dict[str, object]]) -> None:
    """Each core has one row and one incident; each incident is sealed and has one core."""
    found = wait_for(lambda: settled(daemon, count), f"final fate of {count} markers", timeout_s=30)
    assert sorted(path for path, _, _ in found) == sorted(f"{daemon.cores}/core.{n}" for n in range(count))
    assert {fate for _, fate, _ in found} <= {"collected", "interrupted"}, found
    wait_for(lambda: not list(daemon.archive.glob("*.partial")), "no .partial")
    for directory in daemon.archive.glob("*Z-??????"):
        if directory.name not in known:
            known[directory.name] = json.loads((directory / "manifest.json").read_text())
    collected = Counter(manifest["markers"][0]["core"]["path"] for manifest in known.values())
    assert collected == Counter(path for path, _, _ in found)
    for path, fate, incident in found:
        assert known[incident]["markers"][0]["core"]["path"] == path
        assert (known[incident]["state"] == "interrupted") == (fate == "interrupted"), (fate, known[incident]["state"])


def test_runtime_loses_nothing_when_it_is_killed(daemon_factory: Callable[..., Daemon]) -> None:
    """After 200 SIGKILLs no incident is lost, duplicated or unsealed, and every digest is right."""
    moments = random.Random(SEED)
    daemon = daemon_factory(CONFIG, start=False)
    (daemon.directory / "bulk").write_bytes(moments.randbytes(16 << 20))
    known: dict[str, dict[str, object]] = {}
    longest_s = 0.35
    for count in range(KILLS):
        daemon.start()
        if count:
            check(daemon, count, known)
        daemon.put_core(f"core.{count}")
        time.sleep(moments.uniform(0.0, longest_s))
        daemon.stop(signal.SIGKILL)
    daemon.start()
    check(daemon, KILLS, known)
    states = Counter(manifest["state"] for manifest in known.values())
    steps = Counter(len(manifest["steps"]) for manifest in known.values() if manifest["state"] == "interrupted")
    print(f"states {dict(states)}, steps of the interrupted: {dict(sorted(steps.items()))}")
    assert states["interrupted"] >= KILLS // 10, "the moments missed the incidents"
    verified = daemon.run("verify", "--json")
    assert verified.returncode == 0, verified.stdout[-2000:]
    assert Path(daemon.archive / "ledger.sqlite").exists()
