"""A storm of cores, and a daemon that could not look meanwhile."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable

import psutil
import pytest
from configuration import MEMORY, config_of
from harness import Daemon, status_of, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = config_of(
    MEMORY, storm={"per_executable": {"count": 2, "window": "1h"}, "per_uid": {"count": 3, "window": "1h"}}
)
MIB = 1 << 20
ABSENT = 4_000_000
"""PIDs from here on are nobody's on a test machine."""


def fates(daemon: Daemon) -> Counter[str]:
    """Return the markers by fate, with a row of their own or without."""
    return Counter(status_of(daemon).fates)


def test_storm_accounts_for_every_core(daemon_factory: Callable[..., Daemon]) -> None:
    """10,000 cores while the daemon answers; then 10,000 while it is stopped, until its queue overflows."""
    daemon = daemon_factory(CONFIG)
    process = psutil.Process(daemon.pid)
    before = process.memory_info().rss
    for number in range(10_000):
        (daemon.cores / f"core.{ABSENT + number}").write_bytes(b"x" * (1 + number % 2))
        if number % 2000 == 0:
            assert daemon.run("status", "--json").returncode == 0
    wait_for(lambda: sum(fates(daemon).values()) == 10_000, "10,000 fates", 60.0)
    process.send_signal(signal.SIGSTOP)
    try:
        for number in range(10_000):
            (daemon.cores / f"core.late.{ABSENT + number}").write_bytes(b"x")
    finally:
        process.send_signal(signal.SIGCONT)
    wait_for(lambda: sum(fates(daemon).values()) == 20_000, "20,000 fates", 60.0)
    wait_for(lambda: not {"recorded", "queued"} & fates(daemon).keys(), "final fates", 60.0)
    assert fates(daemon).keys() <= {"collected", "joined", "suppressed", "held"}
    assert fates(daemon)["held"] <= 2
    assert len(daemon.incidents()) <= 4  # two of each of the executables; of one, no user is known
    assert process.memory_info().rss - before <= 8 * MIB
    status = json.loads(daemon.run("status", "--json").stdout)
    assert status["lost"] == {"cores": 1}
