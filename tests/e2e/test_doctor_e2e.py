"""`collector doctor --strict` and `--drill` on machines that are broken, each in one way, and on one that is not."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, CORES, MEMORY, UNBOUNDED, config_of
from copying_fixtures import MIB, file_system, mounted
from harness import COLLECTOR, NOBODY, Daemon, as_nobody, open_up
from machine import core_pattern, tmpfs

EXITS = "{id: deaths, type: process_exits, rules: [{comm: [collector-drill]}], pipeline: crash}"
"""Other tests crash their own processes meanwhile, up to a thousand."""

KERNEL = "{id: kernel, type: kernel_log, events: [oom_kill, core_lost, oops], pipeline: crash}"
ALL = config_of(MEMORY, CORE, triggers=(CORES, EXITS, KERNEL), storm=UNBOUNDED)
UNNOTICED, UNREACHABLE, CANNOT_CREATE, BAD_CONFIG = 3, 69, 73, 78
CORE_NAME = "core.%e.%P.%s.%u.%t"
DaemonFactory = Callable[..., Daemon]
pytestmark = pytest.mark.root


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory for cores that no trigger watches."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


class Doctor:
    """What `collector doctor` found: its exit status, and what it says, by area."""

    def __init__(self, daemon: Daemon, *options: str, core_limit: int = resource.RLIM_INFINITY) -> None:
        limits = (core_limit, resource.RLIM_INFINITY)
        done = daemon.run(
            "doctor", "--json", *options, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, limits)
        )
        assert done.stdout.count("\n") == 1, done.stdout + done.stderr
        self.status = done.returncode
        self.checks: list[dict[str, Any]] = json.loads(done.stdout)

    def said(self, about: str, level: str | None = None) -> str:
        return "\n".join(one["said"] for one in self.checks if one["about"] == about and level in {None, one["level"]})

    @classmethod
    def both(cls, daemon: Daemon) -> list[Doctor]:
        """Return ``--strict`` and ``--drill``, each of which looks at the memory for two seconds."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(partial(cls, daemon), ("--strict", "--drill")))

    @property
    def unnoticed(self) -> set[str]:
        return {one["about"] for one in self.checks if one["unnoticed"]}


def test_drill_is_archived_whole_on_a_machine_that_works(daemon_factory: DaemonFactory) -> None:
    """The core is there, by both triggers, and gone from where it was dumped; the drill says whose budget it took."""
    daemon = daemon_factory(ALL)
    with core_pattern(f"{daemon.cores}/{CORE_NAME}"):
        found = Doctor(daemon, "--strict", "--drill")
    assert (found.status, found.unnoticed) == (0, set()), found.checks
    assert "is complete" in found.said("drill", "ok")
    assert "counts as one crash of root's and Python's" in found.said("drill", "ok")
    assert found.said("drill", "warning") == ""
    assert not [path for path in daemon.cores.iterdir() if "collector-drill" in path.name]
    (drilled,) = [one for one in daemon.incidents() if f"incident {one['id']}, " in found.said("drill")]
    assert drilled["markers"][0]["comm"] == "collector-drill"


def test_doctor_names_a_core_limit_of_zero(daemon_factory: DaemonFactory) -> None:
    """A missing core alone is a warning: the crash is noticed, so `--strict` is content."""
    daemon = daemon_factory(ALL)
    with core_pattern(f"{daemon.cores}/{CORE_NAME}"):
        found = Doctor(daemon, "--strict", "--drill", core_limit=0)
    assert found.status == 0
    assert "no core: limit 0" in found.said("drill", "warning")


def test_doctor_names_a_core_pattern_that_leads_elsewhere(daemon_factory: DaemonFactory, elsewhere: Path) -> None:
    """Who watches exits notices the crash all the same: only the core is missing, and the drill's incident says so."""
    daemon = daemon_factory(ALL)
    with core_pattern(f"{elsewhere}/{CORE_NAME}"):
        strict, drill = Doctor.both(daemon)
    assert (strict.status, strict.unnoticed) == (0, set())
    assert f"the daemon watches {daemon.cores}" in strict.said("cores", "warning")
    assert drill.status == UNNOTICED
    assert "is incomplete" in drill.said("drill", "warning")
    assert "no core" in drill.said("drill", "warning")


def test_doctor_is_strict_where_only_cores_are_watched(daemon_factory: DaemonFactory, elsewhere: Path) -> None:
    """A crash that leaves none, or leaves it elsewhere, is then noticed by nobody."""
    daemon = daemon_factory(config_of(MEMORY, CORE, triggers=(CORES, KERNEL)), start=False)
    with core_pattern(f"{elsewhere}/{CORE_NAME}"):
        found = Doctor(daemon, "--strict")
    assert (found.status, found.unnoticed) == (UNNOTICED, {"dumps", "crashes", "daemon"})


@pytest.mark.slow
def test_drill_says_that_nobody_noticed_it(daemon_factory: DaemonFactory, elsewhere: Path) -> None:
    """It waits as long as a handler may need for a core, and no longer."""
    daemon = daemon_factory(config_of(MEMORY, CORE, triggers=(CORES, KERNEL), storm=UNBOUNDED))
    with core_pattern(f"{elsewhere}/{CORE_NAME}"):
        found = Doctor(daemon, "--drill")
    assert found.status == UNNOTICED
    assert "no trigger noticed it" in found.said("drill", "warning")


def test_doctor_names_a_full_disk(daemon_factory: DaemonFactory, tmp_path: Path) -> None:
    """The crash is noticed, and nothing of it is archived: 73, and the drill says what is missing."""
    with file_system(tmp_path, "ext4", size=64 * MIB) as disk:
        daemon = daemon_factory(ALL.replace("$archive", f"{disk}/archive").replace("0%", "5%"), start=False)
        with open(disk / "filler", "wb") as file:
            space = os.statvfs(disk)
            os.posix_fallocate(file.fileno(), 0, (space.f_bavail - 512) * space.f_frsize)
        daemon.start()
        try:
            with core_pattern("core"):
                strict, drill = Doctor.both(daemon)
        finally:
            daemon.kill()
    assert strict.status == CANNOT_CREATE
    assert "less than its reserve" in strict.said("archive", "bad")
    assert drill.status == UNNOTICED
    assert "reserve" in drill.said("drill", "warning")


def test_doctor_names_a_daemon_that_does_not_run(daemon_factory: DaemonFactory) -> None:
    """Whatever the configuration says, nothing is noticed; no process is crashed for nothing."""
    daemon = daemon_factory(ALL, start=False)
    strict, drill = Doctor.both(daemon)
    assert (strict.status, strict.unnoticed) == (UNNOTICED, {"daemon"})
    assert "no daemon answers" in strict.said("daemon", "warning")
    assert drill.status == UNREACHABLE
    assert "not tried" in drill.said("drill", "warning")


def test_doctor_names_an_archive_in_memory(daemon_factory: DaemonFactory, tmp_path: Path) -> None:
    """What is archived there takes the memory that is short, so nothing is; the drill shows it."""
    with tmpfs(tmp_path / "memory") as memory:
        daemon = daemon_factory(ALL.replace("$archive", f"{memory}/archive"))
        with core_pattern("core"):
            strict, drill = Doctor.both(daemon)
        daemon.kill()
    assert strict.status == CANNOT_CREATE
    assert "is on tmpfs" in strict.said("archive", "bad")
    assert drill.status == UNNOTICED
    assert "nothing was archived" in drill.said("drill", "warning")


def test_doctor_says_that_a_daemon_is_stuck(daemon_factory: DaemonFactory) -> None:
    """One that takes the connection and does not answer notices nothing either, and must not hang who asks."""
    daemon = daemon_factory(ALL)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        found = Doctor(daemon, "--strict")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert (found.status, found.unnoticed) == (UNNOTICED, {"daemon"})
    assert "is stuck" in found.said("daemon", "warning")


@pytest.mark.parametrize(("mistake", "is_readable"), [("bogus: 1\n", True), ("archive: {path: [\n", False)])
def test_doctor_goes_on_after_a_mistake_in_the_configuration(
    mistake: str, is_readable: bool, daemon_factory: DaemonFactory
) -> None:
    """It goes by what can be read, else by the packaged default; the exit status names the cause."""
    daemon = daemon_factory(ALL, start=False)
    with daemon.config.open("a", encoding="utf-8") as file:
        file.write(mistake)
    found = Doctor(daemon)
    assert found.status == BAD_CONFIG
    assert str(daemon.config) in found.said("config", "bad")
    assert ("nothing of the file can be read" in found.said("config", "warning")) is not is_readable
    assert (str(daemon.archive) in found.said("archive")) is is_readable
    assert {one["about"] for one in found.checks} >= {"privileges", "cores", "crashes", "daemon", "memory"}


def test_doctor_names_what_is_not_in_force_and_what_the_daemon_lacks(daemon_factory: DaemonFactory) -> None:
    """A file changed since, a capability that was taken away, a score by which the kernel kills it first."""
    daemon = daemon_factory(ALL, start=False)
    daemon.start("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    text = daemon.config.read_text(encoding="utf-8")
    daemon.config.write_text(text.replace("id: deaths", "id: dying"), encoding="utf-8")
    found = Doctor(daemon, "--strict")
    said = found.said("daemon", "warning")
    assert "the configuration in force is not that of" in said
    assert "lacks CAP_SYS_PTRACE" in said
    assert "oom_score_adj is 0" in said
    assert "not loaded: dying" in found.said("crashes", "warning")
    assert found.status == UNNOTICED


def test_doctor_says_without_root_what_it_could_not_check(daemon_factory: DaemonFactory, tmp_path: Path) -> None:
    """`--strict` cannot be answered then: neither 0 nor 3 would be true."""
    daemon = daemon_factory(ALL)
    open_up(daemon.config.parent)
    for option, unchecked in (("--strict", {"daemon", "archive"}), ("--drill", {"daemon", "archive", "drill"})):
        command = [*as_nobody(tmp_path / option), *COLLECTOR, "doctor", option, "--json", "--config", daemon.config]
        (tmp_path / option).mkdir(mode=0o755)
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
        checks = json.loads(done.stdout)
        assert done.returncode == 77
        assert {one["about"] for one in checks if one["said"].startswith("not ")} >= unchecked
        assert not any(one["unnoticed"] for one in checks)


def test_doctor_names_an_archive_that_cannot_be_used(daemon_factory: DaemonFactory) -> None:
    """Mounted read-only, or somebody else's: nothing can be archived there."""
    daemon = daemon_factory(ALL, start=False)
    daemon.archive.mkdir(mode=0o755)
    assert "has mode 0755" in Doctor(daemon).said("archive", "warning")
    with mounted(daemon.archive, daemon.archive, "none", "bind,ro"):
        read_only = Doctor(daemon)
    assert "is mounted read-only" in read_only.said("archive", "bad")
    os.chown(daemon.archive, NOBODY, NOBODY)
    foreign = Doctor(daemon)
    assert f"belongs to uid {NOBODY}" in foreign.said("archive", "bad")
    assert read_only.status == foreign.status == CANNOT_CREATE
