"""Users who crash without a pause, and the crashes of everybody else, at the shipped budgets."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
from configuration import EXITS, MEMORY, config_of
from harness import Daemon, Victim, wait_for
from machine import PROC_CONNECTOR

pytestmark = pytest.mark.root

FLOODING, THIRD = (65534, 1000, 1001, 1002), 2000
SUBORDINATE = 300_000
SUBUID = b"1000:300000:65536\nbroken line \xff\n"
OWN_SUBUID = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/subuid && exec "$@"']
"""Runs a command in a mount namespace in which another file is ``/etc/subuid``."""


def put_core(daemon: Daemon, uid: int, number: int) -> None:
    """Create a complete core of *uid*, of a program that crashes for the first time."""
    hidden = daemon.directory / "unfinished"
    hidden.write_bytes(b"\x7fELF" + b"\0" * 508)
    os.chown(hidden, uid, uid)
    hidden.rename(daemon.cores / f"core.u{uid}n{number}.4000077")


def fates(daemon: Daemon, *uids: int | None) -> Counter[str]:
    return Counter(fate for uid, fate in daemon.ledger("uid, fate") if uid in uids)


def test_floods_of_some_users_cost_nobody_else_a_crash(daemon_factory: Callable[..., Daemon]) -> None:
    """They had the whole total of the machine, and everybody else's crashes were suppressed."""
    daemon = daemon_factory(config_of(MEMORY))
    for number in range(30):
        for uid in FLOODING:
            put_core(daemon, uid, number)
    wait_for(lambda: fates(daemon, *FLOODING).total() == 30 * len(FLOODING), "a row for every core")
    for number in range(5):
        for uid in (0, THIRD):
            put_core(daemon, uid, number)
    # Whose a core is that root may have written for anybody, depends on core_pattern.
    wait_for(lambda: fates(daemon, None, 0, THIRD) == {"collected": 10}, "every crash of the others", timeout_s=60)
    for uid in FLOODING:  # 5 of an executable, 10 of a user
        wait_for(lambda uid=uid: 5 <= fates(daemon, uid)["collected"] <= 10, f"what {uid} may have", timeout_s=60)


def test_budget_of_a_user_is_that_of_his_subordinate_uids(
    daemon_factory: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Thirty uids of one user are one user, as /etc/subuid says when the daemon starts and when it reloads."""
    subuid = tmp_path / "subuid"
    subuid.write_bytes(SUBUID)
    daemon = daemon_factory(config_of(MEMORY), start=False)
    daemon.start(*OWN_SUBUID, str(subuid))
    uids = range(SUBORDINATE, SUBORDINATE + 30)
    for uid in uids:
        put_core(daemon, uid, 0)
    wait_for(lambda: fates(daemon, *uids) == {"collected": 10, "held": 20}, "the budget of one user")
    subuid.write_bytes(b"")
    before = len(daemon.events())
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any(e["event"] == "config.loaded" for e in daemon.events()[before:]), "the reload")
    put_core(daemon, SUBORDINATE + 100, 0)
    wait_for(lambda: fates(daemon, SUBORDINATE + 100) == {"collected": 1}, "the crash of a user of his own")


@contextmanager
def unit(name: str) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Create the cgroup of a unit of the system's manager; return what lets this process be in it during a block."""
    mounts = {"name=systemd": "systemd", "": "unified"}
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines())
    own = {Path("/sys/fs/cgroup", mounts.get(controllers, "-")): path for _, controllers, path in lines}
    own |= {Path("/sys/fs/cgroup"): path for base, path in own.items() if base.name == "unified"}
    base = next(path for path in own if (path / "cgroup.procs").exists())
    group = base / f"test{os.getpid()}.slice" / name
    group.mkdir(parents=True)

    @contextmanager
    def inside() -> Iterator[None]:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (base / own[base].lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield inside
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "end of its processes")
        group.rmdir()
        group.parent.rmdir()


@pytest.mark.needs(PROC_CONNECTOR)
def test_unit_of_the_configuration_has_a_budget_that_its_user_cannot_spend(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """The kernel says which process is of the unit; others of the same user and executable are not."""
    name = f"engine{os.getpid()}.service"
    storm = {"per_uid": {"count": 1}, "units": [name]}
    daemon = daemon_factory(config_of(MEMORY, triggers=(EXITS,), storm=storm))
    expected: list[str] = []
    with unit(name) as inside:
        for fate, is_of_unit in (("collected", False), ("held", False), ("collected", True)):
            with inside() if is_of_unit else nullcontext():
                victim = Victim(crasher, user=THIRD, core_limit=1)  # 1: no core, not even for a handler
            time.sleep(0.6)  # until its exec event has been looked at
            victim.die()
            expected.append(fate)
            wait_for(lambda: [fate for (fate,) in daemon.ledger("fate") if fate != "joined"] == expected, "its fate")
