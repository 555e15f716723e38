"""The journal of a real journald: what a unit says, crashes, and is started again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configuration import NOTIFY, config_of
from harness import steps_of, wait_for
from machine import core_pattern
from systemd_machine import COLLECTOR, UNITS, Machine

JOURNALD = Path("/lib/systemd/system")
SAYS = 'for n in $(seq 300); do echo "line $n"; done; echo "last words, password=s3cr3tvalue"; kill -SEGV $$'
CRASHES = f"[Service]\nExecStart=/bin/bash -c {SAYS!r}\n".replace("$", "$$")
HOOK = (
    (UNITS / "examples/notify-on-crash.conf").read_text(encoding="utf-8").replace("/usr/bin/collector", str(COLLECTOR))
)
JOURNAL = "{id: journal, collector: journal, with: {lines: 400}}"
CONFIG = (
    config_of(JOURNAL, triggers=(NOTIFY,))
    .replace("$archive", "/var/lib/collector")
    .replace("$runtime", "/run/collector")
)
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    names = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
    units = {name: (JOURNALD / name).read_text(encoding="utf-8") for name in names}
    units["systemd-journald.service"] = units["systemd-journald.service"].replace("systemd-journald-audit.socket", "")
    units |= {"engine.service": CRASHES, "engine.service.d/hook.conf": HOOK}
    opened = Machine(tmp_path_factory.mktemp("machine"), units)
    yield opened
    opened.close()


def rows(machine: Machine, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    text = (machine.archive / manifest["id"] / "journal" / "journal.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_journal_of_a_crashed_service_has_its_last_words(machine: Machine) -> None:
    """And what systemd said about it, from the sandbox of the shipped unit."""
    assert machine.run("systemctl", "start", "systemd-journald.service").returncode == 0
    assert machine.run("systemctl", "log-target", "journal").returncode == 0  # its own lines go to the console here
    assert machine.configure(CONFIG).returncode == 0
    with core_pattern("core"):
        machine.run("systemctl", "start", "engine.service")
        (manifest,) = wait_for(machine.incidents, "incident")
    step = steps_of(manifest)["journal"]
    assert (manifest["state"], step["status"], step["verdict"]["step_class"]) == ("complete", "ok", "cached")
    found = rows(machine, manifest)
    pid = str(manifest["markers"][0]["process"]["pid"])
    own = [row["fields"]["MESSAGE"] for row in found if row["fields"]["_PID"] == pid]
    assert own == [f"line {n}" for n in range(1, 301)] + ["last words, password=[redacted]"]
    of_systemd = [row["fields"]["MESSAGE"] for row in found if row["fields"]["_PID"] == "1"]
    assert any("Main process exited" in message for message in of_systemd)


def test_journal_of_a_crashed_service_is_found_in_rotated_files(machine: Machine) -> None:
    """journald has closed the file that has the old lines, and made a new one."""
    before = len(machine.incidents())
    assert machine.run("journalctl", "--rotate").returncode == 0
    with core_pattern("core"):
        machine.run("systemctl", "start", "engine.service")
        (manifest,) = wait_for(lambda: machine.incidents()[before:], "incident")
    (journal,) = (one for one in steps_of(manifest)["journal"]["artifacts"] if one["media"] == "jsonl")
    assert len(journal["source"].split()) == 2
    runs = {row["fields"].get("_SYSTEMD_INVOCATION_ID") for row in rows(machine, manifest)}
    assert len(runs - {None}) >= 2
