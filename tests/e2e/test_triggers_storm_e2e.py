"""A storm of cores, and a daemon that could not look meanwhile."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable

import psutil
import pytest
from configuration import MEMORY, config_of
from harness import Daemon, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = config_of(
    MEMORY, storm={"per_executable": {"count": 2, "window": "1h"}, "per_uid": {"count": 3, "window": "1h"}}
)
MIB = 1 << 20


def fates(daemon: Daemon) -> Counter[str]:
    with sqlite3.connect(f"file:{daemon.archive}/ledger.sqlite?mode=ro", uri=True) as db:
        return Counter(fate for (fate,) in db.execute("SELECT fate FROM markers"))


def test_storm_leaves_a_row_for_every_core(daemon_factory: Callable[..., Daemon]) -> None:
    """10,000 cores while the daemon answers; then 10,000 while it is stopped, until its queue overflows."""
    daemon = daemon_factory(CONFIG)
    process = psutil.Process(daemon.pid)
    before = process.memory_info().rss
    for number in range(10_000):
        (daemon.cores / f"core.{number}").write_bytes(b"x" * (1 + number % 2))
        if number % 2000 == 0:
            assert daemon.run("status", "--json").returncode == 0
    wait_for(lambda: sum(fates(daemon).values()) == 10_000, "10,000 rows", 60.0)
    process.send_signal(signal.SIGSTOP)
    try:
        for number in range(10_000):
            (daemon.cores / f"core.late.{number}").write_bytes(b"x")
    finally:
        process.send_signal(signal.SIGCONT)
    wait_for(lambda: sum(fates(daemon).values()) == 20_000, "20,000 rows", 60.0)
    wait_for(lambda: not {"recorded", "queued"} & fates(daemon).keys(), "fates", 60.0)
    assert fates(daemon).keys() <= {"collected", "joined", "suppressed", "held"}
    assert fates(daemon)["held"] <= 2
    assert len(daemon.incidents()) <= 3
    assert process.memory_info().rss - before <= 8 * MIB
    status = json.loads(daemon.run("status", "--json").stdout)
    assert status["lost"] == {"cores": 1}
