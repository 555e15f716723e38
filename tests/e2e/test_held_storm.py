"""A thousand crashes in ten seconds, all of them offered by the kernel: who is held, and that nobody is forgotten."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from configuration import MEMORY, config_of
from harness import Daemon, status_of, wait_for
from machine import compiled, core_pattern, sysctl

from collector.host.core_pattern_owner import has_coredump_socket

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]
HERE = Path(__file__).parent
COUNT, SPREAD_MS = 1000, 10_000
LOST = "{id: kernel, type: kernel_log, events: [core_lost], pipeline: crash}"


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A short path: ``core_pattern`` has 127 bytes for interpreter and handler together."""
    with tempfile.TemporaryDirectory(prefix="storm-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize("mode", ["socket", "pipe"])
def test_storm_of_held_crashes_is_accounted_for(
    daemon_factory: Callable[..., Daemon], tmp_path: Path, runtime: Path, mode: str
) -> None:
    """Each has a marker, or was lost by the kernel, which says so; most are refused, and all of them end."""
    if mode == "socket" and not has_coredump_socket(os.uname().release):
        pytest.skip("needs Linux 6.17")
    program = compiled(HERE / "storm.c", tmp_path)
    trigger = f"{{id: held, type: kernel_cores, mode: {mode}, register: false, hold: 10m, pipeline: crash}}"
    daemon = daemon_factory(
        config_of(MEMORY, triggers=(trigger, LOST), runtime={"directory": str(runtime)}), start=False
    )
    daemon.runtime = runtime
    daemon.start()
    pattern = next(
        event["reason"].split("set it to '")[1].split("'")[0]
        for event in daemon.events()
        if event["event"] == "trigger.degraded"
    )
    with sysctl("kernel/printk_ratelimit", 0), sysctl("kernel/core_pipe_limit", 16), core_pattern(pattern):
        done = subprocess.run(
            [program, str(COUNT), str(SPREAD_MS)], capture_output=True, check=True, encoding="utf-8", timeout=200
        )
    kept_us = sorted(int(line.split()[1]) for line in done.stdout.splitlines())
    assert len(kept_us) == COUNT

    def accounted() -> bool:
        status = status_of(daemon)
        gone = status.limits.get("kernel_cores.gone", {})
        return sum(status.fates.values()) + sum(gone.values()) >= COUNT and "recorded" not in status.fates

    try:
        wait_for(accounted, "all accounted for", 60.0)
    finally:
        status = status_of(daemon)
        dumps = Counter(row for (row,) in daemon.ledger("substr(json_extract(marker, '$.attributes.dump'), 1, 40)"))
        print(f"\n{mode}: fates {status.fates}, lost {status.lost}, limits {status.limits}, rows {dumps}")
        print(f"kept, ms: p50 {kept_us[COUNT // 2] / 1e3}, p99 {kept_us[-10] / 1e3}, longest {kept_us[-1] / 1e3}")
