"""Incidents that a real daemon hands over to a program: once, again if it failed, and whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from configuration import CORES, MEMORY, NOTIFY, config_of
from harness import Daemon, Victim, contents, held, run_now, status_of, wait_for
from machine import core_pattern

SHIP = (
    '#!/bin/sh\nset -- "$1" "$2" "$(dirname "$0")"\necho "$1 $2 $(ls "$2/manifest.json")" >> "$3/calls"\n. "$3/how"\n'
)
LABELS = {"datacenter": "fra1", "role": "engine"}


def handing_over(make: Callable[..., Daemon], how: str, *triggers: str, **changes: Any) -> Daemon:
    """Return a daemon that hands over to a program which does *how*, a piece of shell."""
    given: dict[str, Any] = {"argv": ["$directory/ship", "{incident}", "{path}"], "retries": 1, "retry_after": "0.1s"}
    sections: dict[str, Mapping[str, Any]] = {"on_archived": given | changes.pop("on_archived", {}), "labels": LABELS}
    sections["pressure"] = {"on_pressure": "proceed"}  # other tests may starve this machine
    daemon = make(config_of(MEMORY, triggers=triggers or (NOTIFY,), **(sections | changes)), start=False)
    (daemon.directory / "how").write_text(how)
    (daemon.directory / "ship").write_text(SHIP)
    (daemon.directory / "ship").chmod(0o755)
    daemon.start()
    return daemon


def calls(daemon: Daemon) -> list[list[str]]:
    """Return the incidents that the program was run for: id, path, and the manifest that it found there."""
    path = daemon.directory / "calls"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def ends(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    return [event for event in daemon.events() if event["event"] == f"handover.{name}"]


def record_of(daemon: Daemon, incident: str) -> dict[str, Any]:
    return json.loads((daemon.archive / f"{incident}.handover").read_bytes())


@pytest.mark.root
def test_handover_of_a_crash_is_done_once(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """The program gets the id and the directory of what is sealed, once, also when the daemon is killed after that."""
    daemon = handing_over(daemon_factory, "echo shipped", CORES)
    with core_pattern(f"{daemon.cores}/core.%e.%P"):
        Victim(crasher).die()
    wait_for(lambda: ends(daemon, "done"), "end of the handover")
    (manifest,) = daemon.incidents()
    incident = manifest["id"]
    where = f"{daemon.archive}/{incident}"
    assert calls(daemon) == [[incident, where, f"{where}/manifest.json"]]
    daemon.stop(signal.SIGKILL)
    daemon.start()
    later = run_now(daemon).incident
    wait_for(lambda: len(ends(daemon, "done")) == 2, "second handover")
    assert [call[0] for call in calls(daemon)] == [incident, later]
    record = record_of(daemon, incident)
    assert (record["state"], record["tries"], record["output"]) == ("done", 1, "shipped\n")
    assert "handed over" in daemon.run("show", incident).stdout
    assert status_of(daemon).handovers == {"waiting": 0, "done": 1, "failed": 0}

    # Which machine it was, wherever the incident is looked at.
    machine_id = Path("/etc/machine-id").read_text().strip() if Path("/etc/machine-id").exists() else ""
    assert (manifest["labels"], manifest["machine_id"]) == (LABELS, machine_id)
    (listed,) = json.loads(daemon.run("list", incident, "label.role=engine", "--json").stdout)["incidents"]
    assert (listed["labels"], listed["machine_id"], listed["host"]) == (LABELS, machine_id, os.uname().nodename)
    assert listed["boot_id"] == manifest["boot_id"]
    assert daemon.run("list", incident, "label.role=other").returncode == 1
    assert "datacenter=fra1 role=engine" in daemon.run("show", incident).stdout
    told = json.loads(daemon.run("show", incident, "--json").stdout)["story"]
    assert (told["labels"], told["handover"]["state"]) == (LABELS, "done")


def test_handover_that_fails_is_tried_again_by_count(daemon_factory: Callable[..., Daemon]) -> None:
    """It exits with 1, prints 5 MB, hangs, leaves a child: each costs itself, and the incident does not change."""
    daemon = handing_over(daemon_factory, "", on_archived={"timeout": "30s"})
    said = {
        "exit 1": ("it exited with status 1", 1),
        "yes | head -c 5000000; echo the end; exit 3": ("it exited with status 3", 3),
        "kill -SEGV $$": ("it was ended by signal 11", -11),
        "sleep 1000 & sleep 1000": ("it was killed: it had not ended in time", -9),
    }
    for number, (how, (reason, status)) in enumerate(said.items(), 1):
        if "sleep" in how:  # the others may take their time on a busy machine
            hasty = daemon.config.read_text(encoding="utf-8").replace("timeout: 30s", "timeout: 0.2s")
            daemon.config.write_text(hasty, encoding="utf-8")
            assert daemon.run("config", "reload").returncode == 0
        (daemon.directory / "how").write_text(how)
        incident = run_now(daemon).incident
        assert incident is not None
        before = contents(daemon.archive / incident)
        wait_for(lambda number=number: status_of(daemon).handovers["failed"] == number, how)
        first, last = [event for event in ends(daemon, "failed") if event["incident"] == incident]
        assert (first["tries"], first["reason"], first["retry_s"]) == (1, reason, 0.1)
        assert (last["tries"], last["reason"], last["retry_s"]) == (2, reason, None)
        record = record_of(daemon, incident)
        assert (record["state"], record["exit_status"]) == ("failed", status)
        assert record.get("output", "").endswith("the end\n" if status == 3 else "")
        assert (daemon.archive / f"{incident}.handover").stat().st_size == 4096
        assert contents(daemon.archive / incident) == before
    assert len(calls(daemon)) == 2 * len(said)
    assert f"NOT HANDED OVER after 2 tries: {reason}" in " ".join(daemon.run("show").stdout.split())
    assert "sleep" not in [child.name() for child in psutil.Process(daemon.pid).children(recursive=True)]
    assert psutil.pid_exists(daemon.pid)


def test_handover_to_a_program_that_is_not_there_fails(daemon_factory: Callable[..., Daemon]) -> None:
    """With the reason; `config check` has warned of it, with its line."""
    daemon = handing_over(daemon_factory, "", on_archived={"argv": ["/nowhere/ship"], "retries": 0})
    incident = run_now(daemon).incident
    wait_for(lambda: ends(daemon, "failed"), "failed handover")
    (failed,) = ends(daemon, "failed")
    assert daemon.metric('handovers_total{state="failed"}') == 1
    assert (failed["incident"], failed["reason"]) == (incident, "/nowhere/ship: No such file or directory")
    warned = daemon.run("config", "check").stderr
    assert "warning: '/nowhere/ship' cannot run: No such file or directory" in warned
    assert warned.startswith(f"{daemon.config}:")


@pytest.mark.parametrize(("number", "tries"), [(signal.SIGKILL, 2), (signal.SIGTERM, 1)])
def test_handover_that_is_cut_off_is_tried_at_the_next_start(
    daemon_factory: Callable[..., Daemon], number: int, tries: int
) -> None:
    """What a killed daemon left is killed first: never two at a time. A stop of the daemon is no failure of theirs."""
    daemon = handing_over(daemon_factory, 'mkdir "$3/once" 2>/dev/null && echo $$ > "$3/pid" && exec sleep 1000')
    incident = run_now(daemon).incident
    assert incident is not None
    wait_for(lambda: (daemon.directory / "pid").exists() and "process" in record_of(daemon, incident), "the program")
    left = psutil.Process(int((daemon.directory / "pid").read_text()))
    try:
        daemon.stop(number)
        assert left.is_running() == (number == signal.SIGKILL), "as long as nobody looks after it"
        (daemon.directory / "how").write_text(
            f"grep -q sleep /proc/{left.pid}/cmdline 2>/dev/null && exit 9; echo alone"
        )
        daemon.start()
        wait_for(lambda: ends(daemon, "done"), "end of the handover")
    finally:
        if left.is_running():
            left.kill()
    record = record_of(daemon, incident)
    assert (record["state"], record["tries"], record["output"]) == ("done", tries, "alone\n")
    assert len(calls(daemon)) == 2


def test_handover_keeps_its_incident_from_retention(daemon_factory: Callable[..., Daemon]) -> None:
    """While the program reads it, it stays; what only waits gives way, and that is said."""
    daemon = handing_over(
        daemon_factory,
        'test -p "$3/hold" && cat "$3/hold"; ls "$2/manifest.json"',
        archive={"path": "$archive", "reserve": "0%", "keep": {"count": 1}},
    )
    fifo = daemon.directory / "hold"
    os.mkfifo(fifo)
    first = run_now(daemon).incident
    with held(fifo):
        second, third = run_now(daemon).incident, run_now(daemon).incident
        assert sorted(one["id"] for one in daemon.incidents()) == sorted([first, third])
        (pruned,) = [event for event in daemon.events() if event["event"] == "incident.pruned"]
        assert (pruned["incident"], pruned["reason"]) == (second, "archive.keep; it was not handed over")
        fifo.unlink()
    wait_for(lambda: len(ends(daemon, "done")) == 2, "handovers of the first and the third")
    assert [call[0] for call in calls(daemon)] == [first, third]
    assert daemon.run("prune").returncode == 0
    assert sorted(path.name for path in daemon.archive.glob("2*")) == [third, f"{third}.handover"]


def test_handover_waits_for_the_gate(daemon_factory: Callable[..., Daemon]) -> None:
    """A program takes memory: it is held to the floor, as a command is, and waits for as long as it takes."""
    daemon = handing_over(daemon_factory, "", pressure={"floor": "100TiB", "on_pressure": "wait"})
    for _ in range(2):
        run_now(daemon)
    assert status_of(daemon).handovers["waiting"] == 2
    assert calls(daemon) == []
    opened = daemon.config.read_text(encoding="utf-8").replace("100TiB", "1MiB").replace(": wait", ": proceed")
    daemon.config.write_text(opened, encoding="utf-8")
    assert daemon.run("config", "reload").returncode == 0
    wait_for(lambda: len(ends(daemon, "done")) == 2, "both handovers")
    assert len(calls(daemon)) == 2
