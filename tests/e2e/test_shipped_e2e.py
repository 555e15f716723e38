"""The shipped configuration: what it notices on a machine as it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from configuration import CRASHER, SHIPPED, config_of
from harness import NOBODY, Daemon, Victim, as_nobody, run_now, status_of, steps_of, wait_for
from machine import PROC_CONNECTOR, core_pattern
from memory_group import memory_group

EATER = "print('ready', flush=True); input(); x = bytearray(256 << 20); x[::4096] = bytes(65536)"
"""A program that takes 256 MiB when it is told to die."""


def shipped() -> str:
    """Return the shipped configuration for this test's directories and crashes."""
    changes = {"cores": {"paths": ["$cores"]}, "deaths": {"rules": [{"comm": [CRASHER]}]}}
    triggers = [trigger | changes.get(trigger["id"], {}) for trigger in SHIPPED["triggers"]]
    return config_of(triggers=tuple(map(yaml.safe_dump, triggers)))


def of(daemon: Daemon, pid: int) -> list[dict[str, Any]]:
    """Return the incidents of one process."""
    pids = ([(one["process"] or {}).get("pid") for one in made["markers"]] for made in daemon.incidents())
    return [made for made, named in zip(daemon.incidents(), pids, strict=False) if pid in named]


@pytest.mark.root
@pytest.mark.needs(PROC_CONNECTOR)
@pytest.mark.parametrize("core_limit", [0, -1], ids=["no core", "core"])
def test_shipped_file_notices_a_crash_with_and_without_a_core(
    daemon_factory: Callable[..., Daemon], crasher: os.PathLike[str], core_limit: int
) -> None:
    """Systemd gives services a soft core limit of 0: their crashes run the pipeline `crash` all the same, once."""
    daemon = daemon_factory(shipped())
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        victim = Victim(crasher, core_limit=core_limit)
        time.sleep(0.6)  # long enough for its exec event to be looked at
        pid = victim.die()
        wait_for(lambda: of(daemon, pid), "incident")
    (manifest,) = of(daemon, pid)
    assert manifest["pipeline"] == "crash"
    seen = {marker["trigger"] for marker in manifest["markers"]}
    assert seen >= ({"deaths", "cores"} if core_limit else {"deaths"})
    assert (steps_of(manifest)["core"]["status"] == "ok") == bool(core_limit)


def test_shipped_file_collects_repeats_without_bulk_and_says_so(daemon_factory: Callable[..., Daemon]) -> None:
    """The first five in full; five more without bulk, for which the rest is named everywhere; the newest is held."""
    daemon = daemon_factory(shipped())
    for number in range(12):
        daemon.put_core(f"core.loop.{4_000_077 + number}")
    wait_for(lambda: len(daemon.ledger("1")) == 12, "a row for each")
    wait_for(lambda: len(daemon.incidents()) == 10, "ten incidents", timeout_s=60)
    wait_for(lambda: {fate for (fate,) in daemon.ledger("fate")} == {"collected", "held", "suppressed"}, "their ends")
    repeats = [one for one in daemon.incidents() if one["over_budget"]]
    assert len(repeats) == 5
    for one in repeats:
        assert one["pipeline"] == "brief"
        assert one["over_budget"].startswith("5 incidents of ")
        left_out = {step["id"]: step["reason"] for step in one["left_out"]}
        assert left_out.keys() == {"process", "network", "block", "segments"}
        assert [artifact["path"] for artifact in steps_of(one)["core"]["artifacts"]] == ["core/core.json"]
        assert set(left_out.values()) == {f"over budget: {one['over_budget']}"}
    reasons = Counter(reason for fate, reason in daemon.ledger("fate, reason") if fate == "collected")
    assert reasons == {"": 5, f"over budget: {repeats[0]['over_budget']}": 5}
    assert f"over budget: {repeats[0]['over_budget']}" in daemon.run("list").stdout
    shown = " ".join(daemon.run("show", repeats[0]["id"]).stdout.split())
    assert "so without process, network, block, segments" in shown
    assert f"over budget: {repeats[0]['over_budget']}" in daemon.run("status").stdout
    assert status_of(daemon).limits["storm.per_executable"].popitem()[1] >= 5


@pytest.mark.root
def test_shipped_file_notices_an_oom_kill(daemon_factory: Callable[..., Daemon]) -> None:
    """It leaves no core, and SIGKILL is none of the signals of `deaths`: the kernel's log tells; there is no bulk."""
    daemon = daemon_factory(shipped())
    with memory_group() as group:
        victim = subprocess.Popen([sys.executable, "-c", EATER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        group.limit(32 << 20)
        group.take(victim.pid)
        victim.communicate(b"\n")
        assert victim.returncode == -signal.SIGKILL
        (manifest,) = wait_for(lambda: of(daemon, victim.pid), "incident")
    assert (manifest["pipeline"], manifest["state"]) == ("brief", "complete")
    assert manifest["markers"][0]["attributes"]["event"] == "oom_kill"


def test_shipped_file_works_for_every_user(daemon_factory: Callable[..., Daemon]) -> None:
    """Without root, triggers that need a capability are degraded and say which; everything else works."""
    daemon = daemon_factory(shipped(), start=False)
    if os.geteuid() == 0:
        os.chown(daemon.directory, NOBODY, -1)
    daemon.start(*(as_nobody(daemon.directory.parent) if os.geteuid() == 0 else ()))
    states = wait_for(lambda: len(found := status_of(daemon).triggers) == 3 and found, "triggers")
    assert states["cores"] == "watching"
    for trigger, hint in {"deaths": "CAP_NET_ADMIN", "kernel": "CAP_SYSLOG"}.items():
        assert states[trigger] == "watching" or hint in str(daemon.events())
    assert run_now(daemon, "memory").exit_code == 0
    assert daemon.stop() == 0
