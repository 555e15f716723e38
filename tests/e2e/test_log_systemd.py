"""What the daemon says in the journal of a real journald, and in systemd's status."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configuration import MEMORY, NOTIFY, config_of
from harness import wait_for
from systemd_machine import COLLECTOR, UNITS, Machine

from collector.daemon.log_kinds import KINDS

JOURNALD = Path("/lib/systemd/system")
HOOK = (
    (UNITS / "examples/notify-on-crash.conf").read_text(encoding="utf-8").replace("/usr/bin/collector", str(COLLECTOR))
)
STEPS = (MEMORY,
         "{id: lacking, collector: command, with: {argv: [/nonexistent]}}")  # fmt: skip
pytestmark = pytest.mark.root


def config(*steps: str) -> str:
    # What the daemon has started with: another `keep` would be a warning at each reload.
    text = config_of(*steps, triggers=(NOTIFY,), recorder={"keep": "15m"})
    return text.replace("$archive", "/var/lib/collector").replace("$runtime", "/run/collector")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    names = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
    units = {name: (JOURNALD / name).read_text(encoding="utf-8") for name in names}
    units["systemd-journald.service"] = units["systemd-journald.service"].replace("systemd-journald-audit.socket", "")
    for name in ("engine", "feeder"):
        units |= {f"{name}.service": '[Service]\nExecStart=/bin/sh -c "kill -KILL $$$$"\n'}
        units |= {f"{name}.service.d/hook.conf": HOOK}
    # systemd connects a service to the journal only where that is there when it starts.
    units["collector.service.d/journal.conf"] = (
        "[Unit]\nWants=systemd-journald.service\nAfter=systemd-journald.service\n"
    )
    opened = Machine(tmp_path_factory.mktemp("machine"), units)
    try:
        yield opened
    finally:
        opened.close()


def entries(machine: Machine, *matches: str) -> list[dict[str, Any]]:
    text = machine.run("journalctl", "-q", "-o", "json", *matches).stdout
    return [json.loads(line) for line in text.splitlines()]


def crash(machine: Machine, unit: str) -> dict[str, Any]:
    before = len(machine.incidents())
    machine.run("systemctl", "start", unit)  # SIGKILL: no core, so whatever core_pattern is, it does not matter
    (manifest,) = wait_for(lambda: machine.incidents()[before:], "incident")
    return manifest


def test_journal_has_an_incident_by_its_fields_and_in_its_units_journal(machine: Machine) -> None:
    """By INCIDENT=, MESSAGE_ID= and COREDUMP_UNIT=; `journalctl -u` of the crashed unit has one line."""
    assert machine.configure(config(STEPS[0])).returncode == 0
    manifest = crash(machine, "engine.service")
    kind = f"MESSAGE_ID={KINDS['incident.archived'].message_id}"
    (entry,) = wait_for(lambda: entries(machine, kind, f"INCIDENT={manifest['id']}"), "entry")
    pid = manifest["markers"][0]["process"]["pid"]
    assert entry["MESSAGE"].startswith(
        f"engine.service[{pid}] died by SIGKILL; archived as {manifest['id'][-6:]}, complete, "
    )
    told = ("COREDUMP_PID", "COREDUMP_SIGNAL_NAME", "COREDUMP_UNIT", "UNIT", "COLLECTOR_STATE", "PRIORITY")
    assert [entry[name] for name in told] == [
        str(pid), "SIGKILL", "engine.service", "engine.service", "complete", "5",
    ]  # fmt: skip
    trusted = ("_TRANSPORT", "_SYSTEMD_UNIT", "_UID", "SYSLOG_IDENTIFIER")
    assert [entry[name] for name in trusted] == ["journal", "collector.service", "0", "collector"]
    in_unit = entries(machine, "-u", "engine.service", "_SYSTEMD_UNIT=collector.service")
    of_unit = [one for one in entries(machine, "-u", "engine.service") if one in in_unit]
    assert [one["MESSAGE"] for one in of_unit] == [entry["MESSAGE"]]
    assert entries(machine, "-u", "feeder.service", kind) == []
    assert machine.run("coredumpctl", "list", "-q").stdout == ""


def test_journal_at_warning_shows_what_matters_and_nothing_else(machine: Machine) -> None:
    """A complete incident is none; a step without its evidence, its incident and a refused reload are."""
    assert machine.configure(config(STEPS[0])).returncode == 0
    matters = ("-u", "collector.service", "-p", "warning", "_TRANSPORT=journal")
    before = len(entries(machine, *matters))  # not --after-cursor=, which skips the first match if the cursor's is none
    crash(machine, "engine.service")
    assert machine.configure(config(*STEPS)).returncode == 0
    crash(machine, "feeder.service")
    assert machine.configure(config(*STEPS) + "bogus: 1\n").returncode != 0
    found = wait_for(lambda: (found := entries(machine, *matters)[before:])[2:] and found, "three entries")
    assert [(one["COLLECTOR_EVENT"], one["PRIORITY"]) for one in found] == [
        ("step.incomplete", "4"), ("incident.archived", "4"), ("config.refused", "3"),
    ]  # fmt: skip
    assert all(one["MESSAGE_ID"] == KINDS[one["COLLECTOR_EVENT"]].message_id for one in found)


def test_status_says_that_a_reload_was_refused_until_it_is_mended(machine: Machine) -> None:
    """Also during and after an incident: who looks a day later must see that the file is not in force."""
    assert machine.configure(config(STEPS[0])).returncode == 0
    assert machine.show("collector.service", "StatusText") == "watching"
    assert machine.configure(config(STEPS[0]) + "bogus: 1\n").returncode != 0
    refused = machine.show("collector.service", "StatusText")
    assert refused.startswith("reload refused: /etc/collector/collector.yaml:")
    assert refused.endswith("; watching")
    crash(machine, "engine.service")
    wait_for(lambda: machine.show("collector.service", "StatusText") == refused, "the end of the incident")
    assert machine.configure(config(STEPS[0])).returncode == 0
    assert machine.show("collector.service", "StatusText") == "watching"


def test_status_says_how_many_crashes_a_drain_holds_up_and_when_it_has_stopped(machine: Machine) -> None:
    """Also a crash that came after `collector drain`; and `stopping` does not stay once it has ended."""
    assert machine.configure(config(STEPS[0])).returncode == 0
    assert machine.run("collector", "drain").returncode == 0
    drained = "drained until a restart, or `collector drain --off`; crashes waiting: "
    assert machine.show("collector.service", "StatusText") == f"{drained}0"
    machine.run("systemctl", "start", "engine.service")
    wait_for(lambda: machine.show("collector.service", "StatusText") == f"{drained}1", "the crash that waits")
    before = len(machine.incidents())
    machine.run("systemctl", "stop", "collector.service")
    assert machine.show("collector.service", "StatusText") == "stopped"
    machine.run("systemctl", "start", "collector.service")
    wait_for(lambda: len(machine.incidents()) > before, "its incident")


def test_daemon_goes_on_while_journald_hangs_and_says_what_is_missing(machine: Machine) -> None:
    """Its socket is full: incidents are archived all the same, and the lines that are missing are counted."""
    assert machine.configure(config(STEPS[0])).returncode == 0
    journald = machine.show("systemd-journald.service", "MainPID")
    stop = ("kill", f"-{signal.SIGSTOP.name[3:]}", journald)
    assert machine.run(*stop).returncode == 0
    try:
        for _ in range(4):  # of five lines each: in namespaces, its socket takes ten
            assert machine.run("collector", "run", "--now", "--only", "memory").returncode == 0
    finally:
        machine.run("kill", "-CONT", journald)
    assert machine.run("collector", "run", "--now").returncode == 0
    kind = f"MESSAGE_ID={KINDS['log.dropped'].message_id}"
    (entry,) = wait_for(lambda: entries(machine, kind), "entry")
    assert (int(entry["COLLECTOR_COUNT"]) > 0, entry["PRIORITY"]) == (True, "4")
    assert machine.show("collector.service", "NRestarts") == "0"


def test_journal_explains_an_entry_by_the_catalog(machine: Machine, tmp_path: Path) -> None:
    """The shipped file is one that `journalctl --update-catalog` takes: each kind of event has its explanation."""
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    shutil.copy(UNITS / "collector.catalog", directory)
    assert machine.run("journalctl", f"--root={tmp_path}", "--update-catalog").returncode == 0
    kind = KINDS["incident.archived"].message_id
    told = machine.run("journalctl", f"--root={tmp_path}", "--dump-catalog", kind).stdout
    assert "Subject: incident.archived\n" in told
    assert "Sealed, fsynced and renamed" in told


def test_journal_goes_on_when_journald_is_started_again(machine: Machine) -> None:
    """As at each upgrade of systemd; what is said meanwhile waits in its socket, which systemd holds."""
    assert machine.run("systemctl", "restart", "systemd-journald.service").returncode == 0
    incident = json.loads(machine.run("collector", "run", "--now", "--json").stdout)["path"].rpartition("/")[2]
    kind = f"MESSAGE_ID={KINDS['incident.archived'].message_id}"
    (entry,) = wait_for(lambda: entries(machine, kind, f"INCIDENT={incident}"), "entry")
    assert entry["MESSAGE"].startswith("a run by hand; archived as ")


def test_journal_says_at_error_why_the_daemon_does_not_start(machine: Machine) -> None:
    """And with all mistakes of the file; last, because it leaves the service failed."""
    assert machine.configure(config(STEPS[0]) + "bogus: 1\n").returncode != 0
    assert machine.run("systemctl", "restart", "collector.service").returncode != 0
    (entry,) = wait_for(lambda: entries(machine, f"MESSAGE_ID={KINDS['daemon.failed'].message_id}"), "entry")
    assert (entry["PRIORITY"], "bogus" in entry["MESSAGE"]) == ("3", True)
    assert "/etc/collector/collector.yaml:" in entry["MESSAGE"]
