"""A flood by one user, in the memory that the unit allows: it costs him his share, and nobody else anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from configuration import CORES, CRASHER, EXITS, MEMORY, config_of
from harness import NOBODY, Daemon, Victim, status_of, wait_for
from memory_group import MemoryGroup, memory_group
from test_runtime_storm import Asker

MIB = 1 << 20
LIMIT = 256 * MIB
"""MemoryMax= of the unit."""

FAT, EMPTY, CRASHES = 10_000, 110_000, 4
ANOTHER = 4000078
"""A user of the test's own."""

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = config_of(
    MEMORY,
    triggers=(
        CORES,
        EXITS,
        "{id: ended, type: exit_files, paths: [$directory/exits], pipeline: crash}",
        "{id: kernel, type: kernel_log, events: [oops], pipeline: crash}",
    ),
    archive={"keep": {"count": None}},
    storm={"total": {"count": 1000}},
)
FLOOD = r"""
import os, sys
cores, exits, empty, fat, uid = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
text = b"SIGNAL=SEGV\n" + b"".join(b"K%d=" % number + b"\x1b" * 1000 + b"\n" for number in range(62))
for number in range(max(empty, fat)):
    if number < fat:
        name = f"{exits}/{number}"
        with open(name + ".tmp", "wb") as file:
            file.write(text)
        os.rename(name + ".tmp", name)
    if number < empty:
        os.close(os.open(f"{cores}/core.engine{number % 40}.{4_000_000 + number}", os.O_WRONLY | os.O_CREAT, 0o600))
"""


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group() as group:
        group.limit(LIMIT)
        yield group


def crash_now_and_then(victims: list[Victim], flood: subprocess.Popen[bytes]) -> list[int]:
    """Let the *victims* crash one after another while the flood goes on, which takes 5 s or more; return the PIDs."""
    died = []
    for victim in victims:
        time.sleep(0.2)
        died.append(victim.die())
    assert flood.poll() is None, "the flood was over too soon"
    return died


def test_runtime_survives_a_flood_in_the_memory_of_its_unit(
    daemon_factory: Callable[..., Daemon], group: MemoryGroup, crasher: Path
) -> None:
    """10,000 exit files of 62 KiB of escapes and 110,000 empty cores of nobody, while root and another user crash."""
    daemon = daemon_factory(CONFIG, start=False)
    exits = daemon.directory / "exits"
    exits.mkdir()
    exits.chmod(0o1777)
    daemon.start("sh", "-c", f'echo $$ > {group.path}/cgroup.procs && exec "$@"', "sh")
    before = psutil.Process(daemon.pid).memory_info().rss
    asker, start_s = Asker(daemon), time.monotonic()
    arguments = [str(daemon.cores), str(exits), str(EMPTY), str(FAT), str(NOBODY)]
    victims = [Victim(crasher, user=user, core_limit=0) for user in (0, ANOTHER) * CRASHES]
    time.sleep(1.0)  # known by their names
    with subprocess.Popen([sys.executable, "-c", FLOOD, *arguments]) as flood:
        died = crash_now_and_then(victims, flood)
    offered_s = time.monotonic() - start_s
    every = FAT + EMPTY + len(died)
    wait_for(lambda: sum(status_of(daemon).fates.values()) >= every, "an account of every marker", 900)
    settled_s = time.monotonic() - start_s
    asker.stop()
    status = status_of(daemon)
    ledger = sum(os.stat(daemon.archive / f"ledger.sqlite{end}").st_size for end in ("", "-wal"))
    (peak,) = (
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    times = sorted(asker.seconds)
    print(
        f"offered in {offered_s:.0f} s, settled after {settled_s:.0f} s: {status.fates}, {status.limits};",
        f"supervisor {before / MIB:.1f} MiB, at most {peak / MIB:.1f}; all {group.peak_bytes / MIB:.0f} MiB;",
        f"status {len(times)} times, median {times[len(times) // 2] * 1000:.0f} ms, most {times[-1] * 1000:.0f} ms;",
        f"ledger {ledger / MIB:.1f} MiB, log {daemon.log.stat().st_size / MIB:.1f} MiB",
    )
    assert not asker.failed
    assert peak - before < 32 * MIB
    assert ledger < 64 * MIB
    incidents = daemon.incidents()
    markers = [marker for manifest in incidents for marker in manifest["markers"]]
    collected = {(marker.get("process") or {}).get("pid") for marker in markers}
    assert set(died) <= collected, "a crash of somebody else was not collected"
    lines = [event for event in daemon.events() if event["event"] == "marker.ruled" and event["uid"] == NOBODY]
    assert len(lines) <= 150 * (settled_s // 60 + 2)
    assert {"ledger rows", "log lines"} <= status.limits.keys()
    assert CRASHER in {event["comm"] for event in daemon.events() if event["event"] == "marker.ruled"}
