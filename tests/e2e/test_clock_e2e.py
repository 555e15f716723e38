"""The wall clock is wrong, or is set while the program runs: nothing is deleted, left out or put in order by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from configuration import HOLD, MEMORY, UNBOUNDED, config_of
from harness import COLLECTOR, Daemon, held, run_now, wait_for
from machine import core_pattern, need
from wall_clock import DAY, WallClock


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def made(daemon: Daemon, clock: WallClock, *ahead_s: int) -> list[str]:
    """Make an incident by each of these dates, without a daemon; return their ids."""
    found = []
    for seconds in ahead_s:
        clock.set(seconds)
        done = daemon.run("run", "--now", "--json", env={**os.environ, **clock.environment})
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["incident"])
    return found


def listed(daemon: Daemon) -> list[str]:
    return [one["id"] for one in json.loads(daemon.run("list", "--json").stdout)["incidents"]]


@pytest.mark.parametrize("ahead_s", [30 * DAY, -30 * DAY])
def test_boot_with_a_wrong_date_deletes_nothing(
    daemon_factory: Callable[..., Daemon], wall_clock: WallClock, ahead_s: int
) -> None:
    """Age counts running time: neither retention at a start or after an incident nor `prune` goes by a date."""
    config = config_of(MEMORY, triggers=(), archive={"keep": {"count": None, "age": "14d", "size": None}})
    daemon = daemon_factory(config, start=False)
    before = made(daemon, wall_clock, 0, 0)
    wall_clock.set(ahead_s)
    daemon.start(*wall_clock.prefix)
    wall_clock.set(2 * ahead_s)  # and once more while it runs
    last = run_now(daemon).incident
    assert daemon.run("prune", "--json", env={**os.environ, **wall_clock.environment}).returncode == 0
    assert listed(daemon) == [*before, last]
    assert not [event for event in daemon.events() if event["event"] == "incident.pruned"]


def test_age_is_the_time_that_the_machine_was_running(
    daemon_factory: Callable[..., Daemon], wall_clock: WallClock
) -> None:
    """What was sealed longer ago than `keep.age` goes, also if its date lies ahead; the newest stays."""
    config = config_of(MEMORY, triggers=(), archive={"keep": {"count": None, "age": "14d", "size": None}})
    daemon = daemon_factory(config, start=False)
    ids = made(daemon, wall_clock, 30 * DAY)
    pass_by(daemon, 10 * DAY)
    ids += made(daemon, wall_clock, 0)
    pass_by(daemon, 5 * DAY)
    assert json.loads(daemon.run("prune", "--dry-run", "--json").stdout)["incidents"] == ids[:1]
    daemon.start(*wall_clock.prefix)
    last = run_now(daemon).incident
    assert listed(daemon) == [ids[1], last]
    pass_by(daemon, 100 * DAY)
    assert json.loads(daemon.run("prune", "--json").stdout)["incidents"] == ids[1:]
    assert listed(daemon) == [last]


def pass_by(daemon: Daemon, seconds: float) -> None:
    """Move the archive's clock forward, as if the machine had been running for *seconds* longer."""
    path = daemon.archive / "clock.json"
    path.write_text(json.dumps({**(state := json.loads(path.read_text())), "clock_s": state["clock_s"] + seconds}))


@pytest.mark.root
def test_time_namespace_makes_nothing_older(daemon_factory: Callable[..., Daemon], wall_clock: WallClock) -> None:
    """A container may have a `CLOCK_BOOTTIME` of its own, within the same boot."""
    need("unshare", "/proc/self/ns/time")
    config = config_of(MEMORY, triggers=(), archive={"keep": {"count": None, "age": "14d", "size": None}})
    daemon = daemon_factory(config, start=False)
    ids = made(daemon, wall_clock, 0, 0)
    prune = [*COLLECTOR, "prune", "--json", "--config", str(daemon.config)]
    for _ in range(2):
        done = subprocess.run(["unshare", "-T", "--boottime", str(30 * DAY), *prune], capture_output=True, check=True)
        assert json.loads(done.stdout)["incidents"] == []
        assert json.loads(daemon.run("prune", "--json").stdout)["incidents"] == []
    assert listed(daemon) == ids


def test_set_back_date_does_not_make_the_newest_the_oldest(
    daemon_factory: Callable[..., Daemon], wall_clock: WallClock
) -> None:
    """`keep.count` deletes the oldest, `latest` is the last, and `list` is in order."""
    config = config_of(MEMORY, triggers=(), archive={"keep": {"count": 3, "age": None, "size": None}})
    daemon = daemon_factory(config, start=False)
    ids = made(daemon, wall_clock, 30 * DAY, 31 * DAY, 60, 0, 30)
    assert sorted(ids) != ids
    assert listed(daemon) == ids[2:]
    assert json.loads(daemon.run("show", "latest", "--json").stdout)["id"] == ids[-1]
    wall_clock.set(-DAY)
    daemon.start(*wall_clock.prefix)
    last = run_now(daemon).incident
    wait_for(lambda: listed(daemon) == [*ids[3:], last], "the order of the archive's own numbers")


def test_power_cut_that_takes_the_clock_gives_no_number_twice(
    daemon_factory: Callable[..., Daemon], wall_clock: WallClock
) -> None:
    """What was not synced is an old state, or nothing: a start compares it with the incidents."""
    config = config_of(MEMORY, triggers=(), archive={"keep": {"count": None, "age": "14d", "size": None}})
    daemon = daemon_factory(config, start=False)
    (first,) = made(daemon, wall_clock, 30 * DAY)
    state = (daemon.archive / "clock.json").read_bytes()
    ids = made(daemon, wall_clock, 20 * DAY, 10 * DAY)
    (daemon.archive / "clock.json").write_bytes(state)
    wall_clock.set(0)
    daemon.start(*wall_clock.prefix)
    last = run_now(daemon).incident
    assert listed(daemon) == [first, *ids, last]


@pytest.mark.parametrize("ahead_s", [DAY, -DAY])
def test_setting_the_date_during_an_incident_changes_no_duration(
    daemon_factory: Callable[..., Daemon], wall_clock: WallClock, ahead_s: int
) -> None:
    """`show` says how long it took."""
    daemon = daemon_factory(config_of(HOLD, triggers=()), start=False)
    os.mkfifo(daemon.directory / "hold")
    daemon.start(*wall_clock.prefix)
    with subprocess.Popen(
        [*COLLECTOR, "run", "--now", "--config", daemon.config], stderr=subprocess.DEVNULL
    ) as running:
        with held(daemon.directory / "hold"):
            wall_clock.set(ahead_s)
        running.wait(40)
    (manifest,) = daemon.incidents()
    assert 0.0 <= manifest["ended_s"] - manifest["started_s"] < DAY / 2


@pytest.mark.root
@pytest.mark.parametrize("ahead_s", [DAY, -DAY])
def test_setting_the_date_refunds_no_budget(
    daemon_factory: Callable[..., Daemon], wall_clock: WallClock, ahead_s: int
) -> None:
    """What was spent within the window of running time stays spent over a restart."""
    budget = {"count": 1, "window": "1h"}
    daemon = daemon_factory(config_of(MEMORY, storm={"coalesce": "0s", "per_executable": budget}), start=False)
    daemon.start(*wall_clock.prefix)
    with core_pattern("core"):
        daemon.put_core("core.engine.1")
        daemon.wait_for_incidents(1)
        wait_for(lambda: daemon.ledger("fate") == [("collected",)], "the end of the first")
        daemon.stop()
        wall_clock.set(ahead_s)
        daemon.start(*wall_clock.prefix)
        daemon.put_core("core.engine.2")
        wait_for(lambda: len(daemon.ledger("fate")) == 2 and daemon.ledger("fate")[1] != ("recorded",), "a ruling")
    assert daemon.ledger("fate") == [("collected",), ("held",)]


@pytest.mark.root
@pytest.mark.parametrize("ahead_s", [30 * DAY, -30 * DAY])
def test_core_is_caught_up_with_whatever_the_date(
    daemon_factory: Callable[..., Daemon], wall_clock: WallClock, ahead_s: int
) -> None:
    """A boot with a wrong date finds the core of a minute ago; what has been collected is not collected again."""
    daemon = daemon_factory(config_of(MEMORY, storm=UNBOUNDED), start=False)
    with core_pattern("core"):
        daemon.start(*wall_clock.prefix)
        daemon.put_core("core.engine.1")
        daemon.wait_for_incidents(1)
        daemon.stop()
        daemon.put_core("core.engine.2")
        wall_clock.set(ahead_s)
        daemon.start(*wall_clock.prefix)
        daemon.wait_for_incidents(2)
        wait_for(lambda: daemon.ledger("fate") == [("collected",)] * 2, "two markers, both collected")


def test_a_clock_that_was_set_back_is_noticed(wall_clock: WallClock) -> None:
    """Each worker knows by how much, since the program started: it inherits what its supervisor saw first."""
    script = "from collector.host import clock; print(flush=True); input(); os.fork() or print(clock.set_back_s())"
    environment = {**os.environ, **wall_clock.environment}
    for set_s, back_s in ((-60, 60), (DAY, -DAY - 60)):
        with subprocess.Popen(
            [sys.executable, "-c", f"import os; {script}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        ) as program:
            assert program.stdout is not None
            program.stdout.readline()
            wall_clock.set(set_s)
            assert float(program.communicate(b"\n")[0]) == pytest.approx(back_s, abs=10)
