"""What `doctor` says of what will become of cores later: the next boot, other handlers, a directory that fills up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_machine import CORES, EXITS, KERNEL, SYSTEMD, FakeMachine

from collector.cli.doctor_boot import lasting
from collector.cli.doctor_configuration import metrics_file
from collector.cli.doctor_core_directory import core_directory
from collector.cli.doctor_kinds import KINDS, kinds
from collector.host.files import Host
from collector.host.tmpfiles import cleaned_up_by
from collector.pipeline.generation import generate
from collector.triggers.registry import TRIGGERS

NOTIFY = "{id: told, type: notify, pipeline: crash}"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    made = FakeMachine(tmp_path)
    made.pattern("/var/crash/core.%P\n")
    for program in ("usr/share/apport/apport", "usr/libexec/abrt-hook-ccpp"):
        (made.root / program).unlink()
    return made


def said(machine: FakeMachine, *triggers: str) -> str:
    found = lasting(machine.configuration(*triggers), Host(str(machine.root)))
    return "\n".join(check.said for check in found)


def test_doctor_says_what_core_pattern_becomes_at_the_next_boot(machine: FakeMachine) -> None:
    """The last file by name decides, one in /etc hides its namesake, and /etc/sysctl.conf is the last of all."""
    assert "until the next boot: no file in sysctl.d" in said(machine, CORES)
    machine.write("usr/lib/sysctl.d/50-coredump.conf", "# a comment\nkernel.core_pattern=|/bin/false\n")
    assert "becomes |/bin/false at the next boot: /usr/lib/sysctl.d/50-coredump.conf" in said(machine, CORES)
    machine.write("etc/sysctl.d/60-collector.conf", "kernel/core_pattern = /var/crash/core.%P\n")
    assert said(machine, CORES) == ""
    machine.write("etc/sysctl.conf", "-kernel.core_pattern = core\n")
    assert "becomes core at the next boot: /etc/sysctl.conf" in said(machine, CORES)
    machine.write("etc/sysctl.conf", "")
    machine.write("etc/sysctl.d/60-collector.conf", "")
    machine.write("etc/sysctl.d/50-coredump.conf", "")
    assert "no file in sysctl.d" in said(machine, CORES)


def test_doctor_names_other_handlers_that_are_installed(machine: FakeMachine) -> None:
    """Their services set core_pattern whenever they start; who owns it already is no rival."""
    machine.write("etc/sysctl.d/60.conf", "kernel.core_pattern = /var/crash/core.%P\n")
    assert said(machine, CORES) == ""
    machine.write("usr/share/apport/apport", "")
    assert "Apport is installed" in said(machine, CORES)
    machine.write("proc/sys/kernel/core_pipe_limit", "0\n")
    machine.pattern("|/usr/share/apport/apport -p%p\n")
    assert "Apport is installed" not in said(machine, CORES)
    assert "core_pipe_limit is 0" in said(machine, CORES)


@pytest.mark.parametrize(
    ("line", "cleans"),
    [
        ("d /var/crash 1733 root root -", False),
        ("d /var/crash 1733 root root", False),
        ("d /var/crash 1733 root root 14d", True),
        ("D! /var/crash/ 1733 root root 14d", True),
        ("e /var/cr* - - - 14d", True),
        ("q /var 0755 - - 10d", True),
        ("d /var/cras 1733 root root 14d", False),
        ("f /var/crash 1733 root root 14d", False),
        ("d /var/crash 1733 root root 14d\nx /var/crash", False),
        ("d /var/crash 1733 root root -\nd /var/crash 1733 root root 14d", False),
    ],
)
def test_doctor_says_who_cleans_up_a_directory_of_cores(line: str, cleans: bool, machine: FakeMachine) -> None:
    """Only a line with an age removes anything; of a handler's directory, the handler takes care."""
    machine.write("etc/tmpfiles.d/crash.conf", line + "\n")
    assert (cleaned_up_by(Host(str(machine.root)), "/var/crash") is not None) is cleans
    found = list(core_directory(machine.configuration(CORES), Host(str(machine.root))))
    assert any("it grows until the disk is full" in check.said for check in found) is not cleans
    machine.directory("var/lib/systemd/coredump", 0o755)
    machine.pattern(SYSTEMD + "\n")
    found = list(core_directory(machine.configuration(CORES), Host(str(machine.root))))
    assert not any("grows" in check.said for check in found)


def kind(machine: FakeMachine, about: str, *triggers: str) -> tuple[str, bool]:
    (found,) = [
        check for check in kinds(machine.configuration(*triggers), Host(str(machine.root))) if check.about == about
    ]
    return found.level, found.unnoticed


def test_shipped_triggers_notice_every_kind_that_strict_insists_on(machine: FakeMachine) -> None:
    """Wherever cores go, and whether there are any."""
    for pattern in ("/var/crash/core.%P", "core", SYSTEMD, "|/no/handler"):
        machine.pattern(f"{pattern}\n")
        found = list(kinds(generate(None, TRIGGERS), Host(str(machine.root))))
        assert [check.about for check in found if check.level != "ok"] == ["failures"]
        assert not any(check.unnoticed for check in found)


def test_doctor_knows_each_kind_of_crash(machine: FakeMachine) -> None:
    """With no trigger at all nobody notices any; what a failing service's status means, only its owner can say."""
    assert {one.about: kind(machine, one.about) for one in KINDS} == {
        "dumps": ("warning", True),
        "crashes": ("warning", True),
        "oom kills": ("warning", True),
        "oopses": ("warning", True),
        "failures": ("warning", False),
    }


@pytest.mark.parametrize(
    ("about", "trigger", "noticed"),
    [
        ("dumps", CORES, True),
        ("dumps", CORES.replace("/var/crash", "/srv"), False),
        ("crashes", CORES, False),
        ("crashes", EXITS, True),
        ("crashes", EXITS.replace("pipeline", "rules: [{signals: [SEGV, ABRT]}], pipeline"), False),
        (
            "crashes",
            EXITS.replace(
                "pipeline",
                "rules: [{signals: [SEGV, ABRT, BUS, FPE, ILL]}, {signals: [QUIT, TRAP, SYS, XCPU, XFSZ]}], pipeline",
            ),
            True,
        ),
        ("oom kills", KERNEL, True),
        ("oom kills", EXITS.replace("pipeline", "rules: [{signals: [KILL]}], pipeline"), True),
        ("oopses", KERNEL, False),
        ("oopses", "{id: kernel, type: kernel_log, pipeline: crash}", True),
        ("failures", NOTIFY, False),
        ("failures", EXITS.replace("pipeline", "rules: [{statuses: [1]}], pipeline"), True),
    ],
)
def test_doctor_knows_which_trigger_notices_a_kind(
    about: str, trigger: str, noticed: bool, machine: FakeMachine
) -> None:
    """Rules count together; a trigger that could be told is not enough where no unit tells it."""
    assert (kind(machine, about, trigger)[0] == "ok") is noticed


def test_doctor_looks_for_the_hooks_of_services(machine: FakeMachine) -> None:
    """In the unit, or in a drop-in, also one for all services."""
    machine.write(
        "etc/systemd/system/service.d/crash.conf", "[Service]\nExecStopPost=-+/usr/bin/collector notify X=1\n"
    )
    assert kind(machine, "failures", NOTIFY)[0] == "ok"
    assert kind(machine, "failures")[0] == "warning"


def test_doctor_says_whether_metrics_are_written(tmp_path: Path) -> None:
    """A file that is old looks like a machine without crashes."""
    assert list(metrics_file("")) == []
    assert "does not exist" in next(metrics_file(f"{tmp_path}/no/collector.prom")).said
    path = tmp_path / "collector.prom"
    assert "not written yet" in next(metrics_file(str(path))).said
    path.write_text("", encoding="utf-8")
    assert next(metrics_file(str(path))).level == "ok"
    os.utime(path, (0, 0))
    assert "last written" in next(metrics_file(str(path))).said
