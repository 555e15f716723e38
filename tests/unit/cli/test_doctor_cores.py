"""What `doctor` says of cores and of crashes without one, on machines that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_machine import ABRT, CORES, EXITS, KERNEL, SYSTEMD, FakeMachine


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "said", "hint"),
    [
        ("core", "cores land wherever the crashed process was", "sysctl kernel.core_pattern=/var/crash/core.%e"),
        ("", "core_pattern is empty", "sysctl"),
        ("/srv/core.%P", "the daemon watches /var/crash, /var/lib/systemd/coredump", "sysctl"),
        ("/var/crash/%e.dump.%P", "but for core*, *.core, *.crash", "include names like engine.dump.1"),
        ("/var/crash/core.%e", "overwrites the one before", "sysctl kernel.core_pattern=/var/crash/core.%e.%P"),
        ("/var/crash/core.%%P", "overwrites the one before", "sysctl"),
        ("|/no/handler %P", "/no/handler, which does not exist: all are lost", "sysctl"),
        ("|/usr/share/other/handler", "which does not exist", "sysctl"),
        (
            "|/usr/libexec/abrt-hook-ccpp %P",
            "files like /var/spool/abrt/ccpp-1/coredump",
            "paths: [/var/spool/abrt]",
        ),
        ("/var/crash/%e/core.%P", "its directory depends on the process", "kernel.core_pattern=/var/crash/core.%e"),
        ("@/run/coredump.socket", "sent to the socket /run/coredump.socket", "its server must leave ELF cores"),
    ],
)
def test_doctor_says_why_cores_are_not_found(pattern: str, said: str, hint: str, machine: FakeMachine) -> None:
    """Each way to lose them has its own words, and what to do about it."""
    machine.pattern(pattern + "\n")
    check = machine.cores(CORES)
    assert check.level == "warning"
    assert said in check.said
    assert hint in str(check.hint)


@pytest.mark.parametrize(
    ("pattern", "trigger"),
    [
        ("/var/crash/core.%e.%P", CORES),
        ("/var/crash/core.%e.%t", CORES),
        (SYSTEMD, CORES),
        ("|/usr/share/apport/apport -p%p", CORES),
        ("|/usr/libexec/abrt-hook-ccpp %P", ABRT),
    ],
)  # fmt: skip
def test_doctor_is_content_where_a_trigger_finds_the_cores(pattern: str, trigger: str, machine: FakeMachine) -> None:
    """The file that a handler leaves is compared with the trigger's directories, depth and globs."""
    machine.pattern(pattern + "\n")
    check = machine.cores(trigger)
    assert (check.level, check.hint) == ("ok", None)
    assert check.said.endswith("found by cores")


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/var/crash", "/opt/collector/examples/sysctl.conf keeps it"),
        ("/srv/cores", "a line in /etc/sysctl.d keeps it"),
    ],
)
def test_doctor_says_what_keeps_the_pattern_across_reboots(path: str, kept: str, machine: FakeMachine) -> None:
    """The examples name the directory of the shipped configuration; they do nothing for another."""
    machine.pattern("core\n")
    check = machine.cores(CORES.replace("/var/crash, /var/lib/systemd/coredump", path))
    assert str(check.hint).endswith(f"; {kept} across reboots")


def test_doctor_says_whose_cores_a_relative_pattern_loses(machine: FakeMachine) -> None:
    """With fs.suid_dumpable=2 the kernel wants an absolute path, or a pipe, for set-id programs."""
    assert "suid_dumpable" not in machine.cores(CORES).said
    machine.write("proc/sys/fs/suid_dumpable", "2\n")
    assert "those of set-id programs are not written at all" in machine.cores(CORES).said


def test_doctor_compares_the_name_with_the_pid_that_is_appended(machine: FakeMachine) -> None:
    """With core_uses_pid the kernel writes `engine.core.42`, which `*.core` does not match; it is also unique."""
    machine.pattern("/var/crash/%e.core\n")
    assert "overwrites" in machine.cores(CORES).said
    machine.write("proc/sys/kernel/core_uses_pid", "1\n")
    assert "include names like engine.core.1" in str(machine.cores(CORES).hint)
    machine.pattern("/var/crash/core\n")
    assert machine.cores(CORES).level == "ok"


def test_doctor_says_that_only_the_owner_can_dump_into_a_directory(machine: FakeMachine) -> None:
    """The kernel writes a core as the user who crashed."""
    machine.pattern("/var/crash/core.%P\n")
    machine.directory("var/crash", 0o755)
    check = machine.cores(CORES)
    assert "other users' cores are lost" in check.said
    assert check.hint == "chmod 1733 /var/crash"
    (machine.root / "var/crash").rmdir()
    assert machine.cores(CORES).hint == "mkdir -m 1733 /var/crash"


def test_doctor_knows_a_directory_by_its_other_name(machine: FakeMachine) -> None:
    """A symlink to the watched directory is that directory."""
    (machine.root / "cores").symlink_to("var/crash")
    machine.pattern("/cores/core.%P\n")
    assert machine.cores(CORES).level == "ok"


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({}, None),
        ({"etc/systemd/coredump.conf": "[Coredump]\n#Storage=none\n"}, None),
        ({"etc/systemd/coredump.conf": "[Coredump]\nStorage=journal\n"}, "journal"),
        (
            {
                "usr/lib/systemd/coredump.conf": "[Coredump]\nStorage=none\n",
                "etc/systemd/coredump.conf": "[Coredump]\nCompress=no\n",
            },
            None,
        ),
        (
            {
                "etc/systemd/coredump.conf": "[Coredump]\nStorage=journal\n",
                "usr/lib/systemd/coredump.conf.d/50.conf": "[Coredump]\nStorage = none\n[Other]\nStorage=external\n",
            },
            "none",
        ),
        (
            {
                "usr/lib/systemd/coredump.conf.d/50.conf": "[Coredump]\nStorage=none\n",
                "etc/systemd/coredump.conf.d/50.conf": "",
            },
            None,
        ),
    ],
)
def test_doctor_reads_how_systemd_stores_cores(files: dict[str, str], kept: str | None, machine: FakeMachine) -> None:
    """In the journal there is no file to watch for. Drop-ins count, and one in /etc hides its namesake."""
    for path, text in files.items():
        machine.write(path, text)
    machine.pattern(SYSTEMD + "\n")
    check = machine.cores(CORES)
    assert check.level == ("ok" if kept is None else "warning")
    assert kept is None or f"Storage={kept}" in check.said


def test_doctor_says_who_notices_a_crash_without_a_core(machine: FakeMachine) -> None:
    """The shipped file of earlier releases missed these with every check green."""
    found = machine.crashes(CORES)
    assert [found[about].level for about in ("crashes", "oom kills")] == ["warning", "warning"]
    found = machine.crashes(CORES, EXITS, KERNEL)
    assert [found[about].level for about in ("crashes", "oom kills")] == ["ok", "ok"]
    found = machine.crashes(EXITS.replace("pipeline", "rules: [{comm: [engine]}], pipeline"))
    assert found["crashes"].said == "a crash that leaves no core and matches the rules is noticed by deaths"


def test_doctor_names_the_services_that_leave_no_core(machine: FakeMachine) -> None:
    """Once each, not the collector's own, nothing outside of services; the first ten, and how many more."""
    for pid, service in enumerate(("engine.service", "engine.service", "collector.service"), 10):
        machine.process(pid, f"0::/system.slice/{service}\n")
    machine.process(20, "1:name=systemd:/system.slice/old.service/worker\n0::/\n")
    machine.process(21, "0::/user.slice/user-0.slice/session-1.scope\n")
    machine.process(22, "0::/system.slice/dumps.service\n", limit="unlimited")
    check = machine.crashes(EXITS)["core limits"]
    assert check.said == (
        "2 running services have a soft core limit of 0: engine.service, old.service;"
        " their crashes are collected without a core"
    )
    assert "LimitCORE=infinity" in str(check.hint)
    assert machine.crashes(CORES)["core limits"].said.endswith("their crashes are not noticed")
    for pid in range(30, 42):
        machine.process(pid, f"0::/system.slice/a{pid}.service\n")
    assert "a39.service and 4 more;" in machine.crashes(EXITS)["core limits"].said


def test_doctor_knows_who_heeds_the_core_limit(machine: FakeMachine) -> None:
    """A pipe gets the core whatever the limit is; systemd-coredump then keeps none, apport reports it."""
    machine.process(10, "0::/system.slice/engine.service\n")
    machine.pattern("|/usr/share/apport/apport -p%p\n")
    assert machine.crashes(EXITS)["core limits"].level == "ok"
    machine.pattern(SYSTEMD + "\n")
    assert machine.crashes(EXITS)["core limits"].level == "warning"


@pytest.mark.parametrize(
    ("pattern", "release", "said"),
    [
        ("core", "6.18.0-1-amd64", "is core; kernel_cores would replace it by the coredump socket (Linux 6.18.0)"),
        ("", "6.17.0", "core_pattern is empty; kernel_cores would replace it by the coredump socket"),
        ("core", "6.16.9", "would replace it by a program and its pipe, and set core_pipe_limit (Linux 6.16.9)"),
        (SYSTEMD, "6.18.0", "kernel_cores would leave it to systemd-coredump (|/usr/lib/systemd/systemd-coredump"),
    ],
)  # fmt: skip
def test_doctor_says_what_kernel_cores_would_change(
    pattern: str, release: str, said: str, machine: FakeMachine
) -> None:
    """Before it is switched on: the kernel decides between socket and pipe, and others keep what is theirs."""
    machine.pattern(pattern + "\n")
    check = machine.kernel_cores(CORES, release=release)
    assert check.level == "ok"
    assert said in check.said
    assert check.said.endswith("if it were switched on")


@pytest.mark.parametrize("pattern", ["@@{root}/run/cores.sock", "|/usr/bin/python3 -I -S {root}/run/handler.py %P"])
def test_doctor_knows_the_collectors_own_pattern(pattern: str, machine: FakeMachine) -> None:
    """With nobody behind it, all cores are lost, and none is to be warned of for its directory or its limit."""
    machine.pattern(pattern.format(root=machine.root) + "\n")
    machine.process(77, "0::/system.slice/engine.service\n")
    check = machine.kernel_cores(CORES)
    assert (check.level, "does not run" in check.said) == ("warning", True)
    assert "core-pattern --put-back" in str(check.hint)
    assert machine.cores(CORES).level == "ok"
    limits = machine.crashes(EXITS)["core limits"]
    assert limits.level == "ok"
    assert "the collector gets their cores all the same" in limits.said
