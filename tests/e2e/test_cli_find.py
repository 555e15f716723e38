"""`list` and `crashes` beside a real daemon, with real crashes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from configuration import MEMORY, config_of
from harness import Daemon, Victim, segment, wait_for
from machine import core_pattern

pytestmark = pytest.mark.root
MIB = 1 << 20


def test_crashes_accounts_for_what_list_has_not(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """One crash is collected, its repeats are recorded; the daemon counts the same, and after its end it is there."""
    daemon = daemon_factory(config_of(MEMORY, storm={"per_executable": {"count": 1, "window": "1h"}}))
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        pids = [Victim(crasher).die() for _ in range(3)]
        daemon.wait_for_incidents(1)
        wait_for(lambda: len(daemon.ledger("id")) == 3 and "recorded" not in str(daemon.ledger("fate")), "three fates")
    status = json.loads(daemon.run("status", "--json").stdout)
    for _ in ("while it runs", "after its end"):
        (listed,) = json.loads(daemon.run("list", str(pids[0]), "SEGV", "--json").stdout)["incidents"]
        assert daemon.run("list", str(pids[1])).returncode == 1
        told = json.loads(daemon.run("crashes", "--comm", crasher.name, "--json").stdout)
        assert told["problems"] == []
        counts: dict[str, int] = {}
        for one in told["crashes"]:
            counts[one["fate"]] = counts.get(one["fate"], 0) + one["count"]
        assert counts == status["fates"]
        assert listed["id"] in {one["incident"] for one in told["crashes"]}
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()
    assert not list(daemon.archive.glob("ledger.sqlite-*")), "closed by the daemon, and not made again"


def test_list_says_where_an_incident_in_progress_is(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """The step by the daemon, the bytes by the files; without the daemon, the bytes."""
    daemon = daemon_factory(config_of(copy={"rate": "4MiB/s"}))
    with segment("slow", 64 * MIB, {n * MIB: os.urandom(MIB) for n in range(64)}) as path:
        with core_pattern(f"{daemon.cores}/core.%e.%p"):
            Victim(crasher, path).die()
        wait_for(lambda: list(daemon.archive.glob("*.partial/segments/**/*.part")), "copy under way")
        for running in (True, False):
            (one,) = json.loads(daemon.run("list", "--json").stdout)["incidents"]
            assert (one["state"], one["ended"]) == ("running" if running else "unfinished", None)
            assert 0 < one["size_bytes"] < 64 * MIB, "not what is reserved"
            if running:
                assert one["running"]["step"] == "segments"
                assert one["running"]["bytes_per_s"] * one["running"]["seconds"] == pytest.approx(one["size_bytes"])
                assert "  now segments; " in daemon.run("list", "STATE=running").stdout
                daemon.kill()
