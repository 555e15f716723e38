"""The supervisor is killed at random moments of an incident; after each restart, the archive is consistent."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, KERNEL_LOG, MEMORY, TABLE, UNBOUNDED, config_of
from harness import Daemon, wait_for

from collector.model.case import Fate

KILLS = 100
SEGMENT = f"survives{os.getpid()}"
SEED = 4
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = config_of(
    MEMORY,
    TABLE,
    KERNEL_LOG,
    CORE,
    "{id: bulk, collector: files, with: {paths: [$directory/bulk/*], max_bytes: 64MiB}}",
    f"{{id: segments, collector: shm, with: {{from: none, segments: ['{SEGMENT}*']}}}}",
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


def check(daemon: Daemon, count: int, known: dict[str, dict[str, Any]]) -> None:
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


@pytest.fixture
def bulk() -> Iterator[dict[str, bytes]]:
    """Three segments; yield their contents by name."""
    data = {f"{SEGMENT}-{number}": os.urandom((1 + number) << 20) for number in range(3)}
    with ExitStack() as stack:
        for name, content in data.items():
            path = Path("/dev/shm", name)
            stack.callback(path.unlink, missing_ok=True)
            path.write_bytes(content)
        yield data


def artifacts_of(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all artifacts by path; none may be listed twice, and each must be there."""
    found = [artifact for step in manifest["steps"] for artifact in step.get("artifacts", ())]
    by_path = {artifact["path"]: artifact for artifact in found}
    assert len(by_path) == len(found), [artifact["path"] for artifact in found]
    return by_path


def check_contents(daemon: Daemon, manifest: dict[str, Any], bulk: dict[str, bytes]) -> None:
    """What is not marked as truncated is whole, and a step that is ok has everything."""
    artifacts = artifacts_of(manifest)
    incident = daemon.archive / manifest["id"]
    wanted = [f"segments/segments/{number:04}" for number in range(1, 4)] + [f"bulk/files/{n:04}" for n in range(1, 5)]
    ends = {step["id"]: step["status"] for step in manifest["steps"]}
    assert len(ends) == len(manifest["steps"])
    for path in wanted:
        if ends.get(path.partition("/")[0]) == "ok":
            assert not artifacts[path].get("truncated")
            assert not Path(f"{incident / path}.part").exists()
    if manifest["state"] != "interrupted":
        assert (ends["segments"], ends["bulk"]) == ("ok", "ok")
    sources = {f"/dev/shm/{name}": content for name, content in bulk.items()}
    for path in wanted:
        known = artifacts.get(path)
        if known is not None and not known.get("truncated"):
            source = known["source"]
            assert (incident / path).read_bytes() == (sources.get(source) or Path(source).read_bytes()), path


def test_runtime_loses_nothing_when_it_is_killed(daemon_factory: Callable[..., Daemon], bulk: dict[str, bytes]) -> None:
    """
    After 100 SIGKILLs and more no incident is lost, duplicated or unsealed, and every digest is right.

    Each is continued; those that are killed once more while they are end as interrupted, with all that was collected.
    """
    moments = random.Random(SEED)
    daemon = daemon_factory(CONFIG, start=False)
    (daemon.directory / "bulk").mkdir()
    for number in range(4):
        (daemon.directory / "bulk" / str(number)).write_bytes(moments.randbytes(4 << 20))
    known: dict[str, dict[str, Any]] = {}
    longest_s = 0.35
    for count in range(KILLS):
        begun = list(daemon.archive.glob("*.partial"))
        daemon.start()
        if count % 3 == 1 and begun:  # again, while it goes on; what has no directory yet is tried twice only
            time.sleep(moments.uniform(0.0, longest_s / 2))
            daemon.stop(signal.SIGKILL)
            daemon.start()
        if count:
            check(daemon, count, known)
        daemon.put_core(f"core.{count}")
        time.sleep(moments.uniform(0.0, longest_s))
        daemon.stop(signal.SIGKILL)
    daemon.start()
    check(daemon, KILLS, known)
    for manifest in known.values():
        check_contents(daemon, manifest, bulk)
    states = Counter((manifest["state"], len(manifest["continued"])) for manifest in known.values())
    steps = Counter(len(manifest["steps"]) for manifest in known.values() if manifest["state"] == "interrupted")
    print(f"states and continuations {dict(states)}, steps of the interrupted: {dict(sorted(steps.items()))}")
    assert states["incomplete", 1] >= KILLS // 10, "the moments missed the incidents"
    assert states["interrupted", 1], "no moment was within a continuation"
    verified = daemon.run("verify", "--json")
    assert verified.returncode == 0, verified.stdout[-2000:]
    assert Path(daemon.archive / "ledger.sqlite").exists()
