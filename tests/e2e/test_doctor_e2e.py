"""`collector doctor --strict` and `--drill` on machines that are broken, each in one way, and on one that is not."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, CORES, MEMORY, UNBOUNDED, config_of
from copying_fixtures import MIB, file_system, mounted
from harness import COLLECTOR, NOBODY, Daemon, as_nobody, make_daemon, open_up, status_of
from machine import core_pattern, tmpfs

from collector.cli.drill import drill_checks
from collector.pipeline.generation import generate
from collector.triggers.registry import TRIGGERS

EXITS = "{id: deaths, type: process_exits, rules: [{comm: [collector-drill]}], pipeline: crash}"
"""Other tests crash their own processes meanwhile, up to a thousand."""

KERNEL = "{id: kernel, type: kernel_log, events: [oom_kill, core_lost, oops], pipeline: crash}"
ALL = config_of(MEMORY, CORE, triggers=(CORES, EXITS, KERNEL), storm=UNBOUNDED)
UNNOTICED, UNREACHABLE, CANNOT_CREATE, BAD_CONFIG = 3, 69, 73, 78
CORE_NAME = "core.%e.%P.%s.%u.%t"
DaemonFactory = Callable[..., Daemon]
MISTAKES = {"bogus: 1\n": True, "archive: {path: [\n": False}
"""What is appended to a file, and whether the rest of it can still be read."""

pytestmark = pytest.mark.root


class Doctor:
    """What `collector doctor` found: its exit status, and what it says, by area."""

    def __init__(self, daemon: Daemon, *options: str, core_limit: int = resource.RLIM_INFINITY) -> None:
        def prepare() -> None:
            """Have the core limit, and the signal blocked by which the drill dies, as threads of a service may."""
            resource.setrlimit(resource.RLIMIT_CORE, (core_limit, resource.RLIM_INFINITY))
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])

        self._read(daemon.run("doctor", "--json", *options, preexec_fn=prepare))

    @classmethod
    def of_nobody(cls, daemon: Daemon, option: str, scratch: Path) -> Doctor:
        """Return what it finds without root."""
        scratch.mkdir(mode=0o755)
        command = [*as_nobody(scratch), *COLLECTOR, "doctor", option, "--json", "--config", str(daemon.config)]
        found = cls.__new__(cls)
        found._read(subprocess.run(command, capture_output=True, text=True, check=False, timeout=60))
        return found

    def _read(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stdout.count("\n") == 1, done.stdout + done.stderr
        self.status = done.returncode
        self.checks: list[dict[str, Any]] = json.loads(done.stdout)

    def said(self, about: str, level: str | None = None) -> str:
        return "\n".join(one["said"] for one in self.checks if one["about"] == about and level in {None, one["level"]})

    @property
    def unnoticed(self) -> set[str]:
        return {one["about"] for one in self.checks if one["unnoticed"]}


class Machines:
    """Daemons, and several doctors at once: each looks at the memory for two seconds."""

    def __init__(self, directory: Path, pool: ThreadPoolExecutor) -> None:
        self._directory = directory
        self._pool = pool
        self._made: list[Daemon] = []

    def make(self, config: str = "", *prefix: str, start: bool = True) -> Daemon:
        daemon = make_daemon(self._directory, len(self._made), config or ALL)
        self._made.append(daemon)
        if start:
            daemon.start(*prefix)
        return daemon

    def ask(self, daemon: Daemon, *options: str, core_limit: int = resource.RLIM_INFINITY) -> Future[Doctor]:
        return self._pool.submit(Doctor, daemon, *options, core_limit=core_limit)

    def ask_as_nobody(self, daemon: Daemon, option: str) -> Future[Doctor]:
        return self._pool.submit(Doctor.of_nobody, daemon, option, self._directory / f"nobody{option}")

    def kill(self) -> None:
        for daemon in self._made:
            daemon.kill()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with ThreadPoolExecutor(8) as pool:
        made = Machines(tmp_path_factory.mktemp("machines"), pool)
        try:
            yield made
        finally:
            made.kill()


@pytest.fixture(scope="module")
def healthy(machines: Machines) -> Daemon:
    """A daemon that lacks nothing."""
    return machines.make()


@pytest.fixture(scope="module")
def asked(
    machines: Machines, healthy: Daemon, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[Doctor]]:
    """What is found where no process leaves a core, by the name of the case; all at once, for they mostly wait."""
    off = machines.make(start=False)
    only_cores = machines.make(config_of(MEMORY, CORE, triggers=(CORES, KERNEL)), start=False)
    read_only = _with_archive(machines, 0o700)
    with ExitStack() as changed:
        changed.enter_context(core_pattern(f"{elsewhere}/{CORE_NAME}"))
        changed.enter_context(mounted(read_only.archive, read_only.archive, "none", "bind,ro"))
        found = {
            **_of_a_stuck_daemon(machines, changed),
            **_where_nothing_can_be_archived(machines, changed, tmp_path_factory.mktemp("disks")),
            "only cores": machines.ask(only_cores, "--strict"),
            "off, strict": machines.ask(off, "--strict"),
            "off, drill": machines.ask(off, "--drill"),
            "nobody, --strict": machines.ask_as_nobody(healthy, "--strict"),
            "nobody, --drill": machines.ask_as_nobody(healthy, "--drill"),
            "open": machines.ask(_with_archive(machines, 0o755)),
            "foreign": machines.ask(_with_archive(machines, 0o700, owner=NOBODY)),
            "read-only": machines.ask(read_only),
            "no runtime directory": machines.ask(_with_open_runtime_directory(machines), "--strict"),
            "less": machines.ask(_that_lacks_things(machines), "--strict"),
            **{mistake: machines.ask(_with(machines, mistake)) for mistake in MISTAKES},
        }
        for one in found.values():
            one.exception()  # waits
    return found


def _of_a_stuck_daemon(machines: Machines, changed: ExitStack) -> dict[str, Future[Doctor]]:
    stuck = machines.make()
    os.kill(stuck.pid, signal.SIGSTOP)
    changed.callback(os.kill, stuck.pid, signal.SIGCONT)
    return {"stuck": machines.ask(stuck, "--strict")}


def _where_nothing_can_be_archived(
    machines: Machines, changed: ExitStack, directory: Path
) -> dict[str, Future[Doctor]]:
    """Ask of a full disk, and of an archive in memory, each by a drill without a core to wait for."""
    disk = changed.enter_context(file_system(directory, "ext4", size=64 * MIB))
    full = machines.make(ALL.replace("$archive", f"{disk}/archive").replace("0%", "5%"), start=False)
    with open(disk / "filler", "wb") as file:
        space = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, (space.f_bavail - 512) * space.f_frsize)
    memory = changed.enter_context(tmpfs(directory / "memory"))
    in_memory = machines.make(ALL.replace("$archive", f"{memory}/archive"), start=False)
    found = {}
    for case, daemon in {"full": full, "memory": in_memory}.items():
        daemon.start()
        changed.callback(daemon.kill)
        found[f"{case}, strict"] = machines.ask(daemon, "--strict", core_limit=0)
        found[f"{case}, drill"] = machines.ask(daemon, "--drill", core_limit=0)
    return found


def _with_archive(machines: Machines, mode: int, *, owner: int = 0) -> Daemon:
    daemon = machines.make(start=False)
    daemon.archive.mkdir(mode=mode)
    os.chown(daemon.archive, owner, owner)
    return daemon


def _with_open_runtime_directory(machines: Machines) -> Daemon:
    daemon = machines.make(start=False)
    daemon.runtime.mkdir(mode=0o755)
    return daemon


def _that_lacks_things(machines: Machines) -> Daemon:
    """Start a daemon without a capability, and change its file."""
    daemon = machines.make(ALL, "setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    text = daemon.config.read_text(encoding="utf-8")
    daemon.config.write_text(text.replace("id: deaths", "id: dying"), encoding="utf-8")
    return daemon


def _with(machines: Machines, mistake: str) -> Daemon:
    daemon = machines.make(start=False)
    with daemon.config.open("a", encoding="utf-8") as file:
        file.write(mistake)
    return daemon


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for cores that no trigger watches."""
    directory = tmp_path_factory.mktemp("elsewhere")
    open_up(directory)
    directory.chmod(0o1777)
    return directory


def test_drill_is_archived_whole_on_a_machine_that_works(machines: Machines, healthy: Daemon) -> None:
    """
    The core is there, by both triggers, and gone from where it was dumped; the drill says whose budget it took.

    A missing core alone is a warning: the crash is noticed, so `--strict` is content. A daemon that is drained begins
    nothing, nor one whose budgets are spent: the drill says so, and does not wait for long.
    """
    drained = machines.make()
    spent = machines.make(ALL.replace("per_executable: {count: 1000000", "per_executable: {count: 1"))
    assert drained.run("drain").returncode == 0
    with core_pattern(f"{healthy.cores}/{CORE_NAME}"):
        asked = [
            machines.ask(healthy, "--strict", "--drill"),
            machines.ask(healthy, "--strict", "--drill", core_limit=0),
            machines.ask(drained, "--drill", core_limit=0),
        ]
        found, limited, waiting = [one.result() for one in asked]
        assert not [path for path in healthy.cores.iterdir() if "collector-drill" in path.name]
        *_, (held, _) = drill_checks(generate(str(spent.config), TRIGGERS), status_of(spent))  # it saw those three
    assert (found.status, found.unnoticed) == (0, set()), found.checks
    assert "is complete" in found.said("drill", "ok")
    assert "counts as one crash of root's and Python's" in found.said("drill", "ok")
    assert found.said("drill", "warning") == ""
    (drilled,) = [one for one in healthy.incidents() if f"incident {one['id']}, " in found.said("drill")]
    assert drilled["markers"][0]["comm"] == "collector-drill"
    assert limited.status == 0
    assert "no core: limit 0" in limited.said("drill", "warning")
    assert waiting.status == UNNOTICED
    assert "not archived after 5 s, for the daemon is drained: deaths: queued" in waiting.said("drill", "warning")
    assert "not archived after 5 s: deaths: held, 1 incident of" in held.said


def test_drill_says_that_no_directory_can_be_made_for_it(healthy: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk all other checks are told as well, and `--json` stays one document."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    ((check, status),) = drill_checks(generate(str(healthy.config), TRIGGERS), status_of(healthy))
    assert (check.said.partition(":")[0], status) == ("not tried", UNNOTICED)


def test_doctor_names_a_core_pattern_that_leads_elsewhere(machines: Machines, healthy: Daemon, elsewhere: Path) -> None:
    """Who watches exits notices the crash all the same: only the core is missing, and the drill's incident says so."""
    with core_pattern(f"{elsewhere}/{CORE_NAME}"):
        asked = [machines.ask(healthy, option) for option in ("--strict", "--drill")]
        strict, drill = [one.result() for one in asked]
    assert (strict.status, strict.unnoticed) == (0, set())
    assert f"the daemon watches {healthy.cores}" in strict.said("cores", "warning")
    assert drill.status == UNNOTICED
    assert "is incomplete" in drill.said("drill", "warning")
    assert "no core" in drill.said("drill", "warning")


def test_doctor_is_strict_where_only_cores_are_watched(asked: dict[str, Future[Doctor]]) -> None:
    """A crash that leaves none, or leaves it elsewhere, is then noticed by nobody."""
    found = asked["only cores"].result()
    assert (found.status, found.unnoticed) == (UNNOTICED, {"dumps", "crashes", "daemon"})


@pytest.mark.slow
def test_drill_says_that_nobody_noticed_it(daemon_factory: DaemonFactory, elsewhere: Path) -> None:
    """It waits as long as a handler may need for a core, and no longer."""
    daemon = daemon_factory(config_of(MEMORY, CORE, triggers=(CORES, KERNEL), storm=UNBOUNDED))
    with core_pattern(f"{elsewhere}/{CORE_NAME}"):
        found = Doctor(daemon, "--drill")
    assert found.status == UNNOTICED
    assert "no trigger noticed it" in found.said("drill", "warning")


def test_doctor_names_a_full_disk(asked: dict[str, Future[Doctor]]) -> None:
    """The crash is noticed, and nothing of it is archived: 73, and the drill says what is missing."""
    strict, drill = asked["full, strict"].result(), asked["full, drill"].result()
    assert strict.status == CANNOT_CREATE
    assert "less than its reserve" in strict.said("archive", "bad")
    assert drill.status == UNNOTICED
    assert "reserve" in drill.said("drill", "warning")


def test_doctor_names_a_daemon_that_does_not_run(asked: dict[str, Future[Doctor]]) -> None:
    """Whatever the configuration says, nothing is noticed; no process is crashed for nothing."""
    strict, drill = asked["off, strict"].result(), asked["off, drill"].result()
    assert (strict.status, strict.unnoticed) == (UNNOTICED, {"daemon"})
    assert "no daemon answers" in strict.said("daemon", "warning")
    assert drill.status == UNREACHABLE
    assert "not tried" in drill.said("drill", "warning")


def test_doctor_says_why_a_daemon_cannot_start(asked: dict[str, Future[Doctor]]) -> None:
    """Others may enter its runtime directory, so it refuses it: \"no such file\" alone leads nowhere."""
    found = asked["no runtime directory"].result()
    assert found.status == UNNOTICED
    assert "it cannot start: the runtime directory" in found.said("daemon", "warning")


def test_doctor_names_an_archive_in_memory(asked: dict[str, Future[Doctor]]) -> None:
    """What is archived there takes the memory that is short, so nothing is; the drill shows it."""
    strict, drill = asked["memory, strict"].result(), asked["memory, drill"].result()
    assert strict.status == CANNOT_CREATE
    assert "is on tmpfs" in strict.said("archive", "bad")
    assert drill.status == UNNOTICED
    assert "nothing was archived" in drill.said("drill", "warning")


def test_doctor_says_that_a_daemon_is_stuck(asked: dict[str, Future[Doctor]]) -> None:
    """One that takes the connection and does not answer notices nothing either, and must not hang who asks."""
    found = asked["stuck"].result()
    assert (found.status, found.unnoticed) == (UNNOTICED, {"daemon"})
    assert "is stuck" in found.said("daemon", "warning")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_doctor_goes_on_after_a_mistake_in_the_configuration(mistake: str, asked: dict[str, Future[Doctor]]) -> None:
    """It goes by what can be read, else by the packaged default; the exit status names the cause."""
    found = asked[mistake].result()
    assert found.status == BAD_CONFIG
    assert "collector.yaml:" in found.said("config", "bad")
    assert ("nothing of the file can be read" in found.said("config", "warning")) is not MISTAKES[mistake]
    assert ("/daemon" in found.said("archive")) is MISTAKES[mistake]
    assert {one["about"] for one in found.checks} >= {"privileges", "cores", "crashes", "daemon", "memory"}


def test_doctor_names_what_is_not_in_force_and_what_the_daemon_lacks(asked: dict[str, Future[Doctor]]) -> None:
    """A file changed since, a capability that was taken away, a score by which the kernel kills it first."""
    found = asked["less"].result()
    said = found.said("daemon", "warning")
    assert "the configuration in force is not that of" in said
    assert "lacks CAP_SYS_PTRACE" in said
    assert "oom_score_adj is 0" in said
    assert "not loaded: dying" in found.said("crashes", "warning")
    assert found.status == UNNOTICED


@pytest.mark.parametrize(("option", "unchecked"), [("--strict", set()), ("--drill", {"drill"})])
def test_doctor_says_without_root_what_it_could_not_check(
    option: str, unchecked: set[str], asked: dict[str, Future[Doctor]]
) -> None:
    """`--strict` cannot be answered then: neither 0 nor 3 would be true."""
    found = asked[f"nobody, {option}"].result()
    assert found.status == 77
    assert {one["about"] for one in found.checks if one["said"].startswith("not ")} >= {"daemon", "archive", *unchecked}
    assert found.unnoticed == set()


def test_doctor_names_an_archive_that_cannot_be_used(asked: dict[str, Future[Doctor]]) -> None:
    """Mounted read-only, or somebody else's: nothing can be archived there."""
    is_open, read_only, foreign = (asked[case].result() for case in ("open", "read-only", "foreign"))
    assert "has mode 0755" in is_open.said("archive", "warning")
    assert "is mounted read-only" in read_only.said("archive", "bad")
    assert f"belongs to uid {NOBODY}" in foreign.said("archive", "bad")
    assert read_only.status == foreign.status == CANNOT_CREATE
