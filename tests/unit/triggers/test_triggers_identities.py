"""Who a PID was, in a `/proc` that changes under the table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from collector.host.files import Host
from collector.model.owners import Owners, SubordinateUids
from collector.triggers import identities as module
from collector.triggers.identities import Identities

USERS = Owners(subordinate=(SubordinateUids(first=300_000, count=65_536, uid=1000),))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


@pytest.fixture
def table(proc: Path) -> Identities:
    return Identities(Host(root=str(proc.parent)), USERS)


def live(proc: Path, pid: int, comm: str, *, parent: int = 1, start: int = 5, state: str = "S", flags: int = 0) -> None:
    shutil.rmtree(proc / str(pid), ignore_errors=True)
    (proc / str(pid)).mkdir()
    fields = [state, str(parent), *["0"] * 4, str(flags), *["0"] * 12, str(start), *["0"] * 30]
    (proc / str(pid) / "status").write_text(f"Name:\t{comm}\nTgid:\t{pid}\nUid:\t1000\t0\t0\t0\nNStgid:\t{pid}\t1\n")
    (proc / str(pid) / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
    (proc / str(pid) / "exe").symlink_to(f"/opt/{comm}")
    (proc / str(pid) / "cgroup").write_text(f"0::/system.slice/{comm}.service\n")


def die(proc: Path, pid: int) -> None:
    shutil.rmtree(proc / str(pid))


def test_identities_remember_a_process_that_is_gone(proc: Path, table: Identities) -> None:
    """Learnt at the exec, returned at the exit, and then forgotten."""
    live(proc, 7, "engine", parent=3)
    table.learn(7)
    die(proc, 7)
    who = table.take(7, 3)
    assert who is not None
    assert (who.comm, who.exe, who.unit, who.start_ticks) == ("engine", "/opt/engine", "engine.service", 5)
    assert table.take(7, 3) is None


def test_identities_do_not_confuse_a_process_with_an_earlier_one(proc: Path, table: Identities) -> None:
    """An engine's successful exit is not reported; its PID is reused for another process's forked child."""
    live(proc, 3, "shell")
    live(proc, 7, "engine", parent=3)
    table.learn(3)
    table.learn(7)
    die(proc, 7)
    assert table.take(7, 99) is None


def test_identities_keep_a_process_that_init_adopted(proc: Path, table: Identities) -> None:
    """A daemon outlives its parent."""
    live(proc, 7, "engine", parent=3)
    table.learn(7)
    die(proc, 7)
    who = table.take(7, 1)
    assert who is not None
    assert who.comm == "engine"


def test_identities_give_a_child_without_an_exec_its_parents_name(proc: Path, table: Identities) -> None:
    """It has the parent's name and executable; its own start time is unknown."""
    live(proc, 3, "engine")
    table.learn(3)
    who = table.take(7, 3)
    assert who is not None
    assert (who.comm, who.exe, who.start_ticks) == ("engine", "/opt/engine", None)


def test_identities_do_not_guess_when_an_exec_was_missed(proc: Path, table: Identities) -> None:
    """A process that called exec and was gone before it could be read does not look like its parent."""
    live(proc, 3, "shell")
    table.learn(3)
    table.learn(7)
    who = table.take(7, 3)
    assert who is not None
    assert (who.comm, who.exe, who.unit, who.start_ticks, who.uid) == ("", None, None, None, 1000)


def test_identities_know_whom_a_process_has_become(proc: Path, table: Identities) -> None:
    """A worker that root has forked is a user's when it dies, also if nobody looked at it in between."""
    live(proc, 3, "engine")
    table.learn(3)
    table.become(7, 33)
    who = table.take(7, 3)
    assert who is not None
    assert (who.comm, who.uid) == ("", 33)


def test_identities_are_bounded(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with more processes loses the oldest of the user who has most: nobody else's are displaced."""
    monkeypatch.setattr(module, "MAX_IDENTITIES", 10)
    table = Identities(Host(root=str(proc.parent)), USERS)
    live(proc, 99, "engine", parent=3)
    (proc / "99/status").write_text("Name:\tengine\nTgid:\t99\nUid:\t1001\t0\t0\t0\nNStgid:\t99\t1\n")
    for pid in range(100, 150):
        live(proc, pid, f"c{pid}", parent=3)
        uid = 300_000 + pid  # each another of the same user's
        (proc / f"{pid}/status").write_text(f"Name:\tc{pid}\nTgid:\t{pid}\nUid:\t{uid}\t0\t0\t0\nNStgid:\t{pid}\t1\n")
    table.learn_all()
    for pid in range(99, 150):
        die(proc, pid)
    assert sum(table.take(pid, 3) is not None for pid in range(100, 150)) == 9
    assert table.take(99, 3) is not None


def test_identities_do_not_take_a_living_process_for_one_that_dumps_core(proc: Path, table: Identities) -> None:
    """The PID was taken again before the event was read: its new holder is not dying."""
    live(proc, 7, "engine", parent=3)
    table.learn(7)
    live(proc, 7, "shell", parent=3, start=6)
    who, _ = table.dumping(7, 7, 3)
    assert who is not None
    assert (who.comm, who.start_ticks) == ("engine", 5)
    assert table.dumping(8, 8, 99) == (None, None)


def test_identities_see_a_process_that_dumps_core(proc: Path, table: Identities) -> None:
    """The thread that crashed is marked by its flags; what the process became since its exec is what counts."""
    live(proc, 7, "engine", start=5)
    live(proc, 9, "worker", start=8, flags=0x400)
    (proc / "9" / "status").write_text("Name:\tworker\nTgid:\t7\n")
    who, thread_comm = table.dumping(7, 9, 1)
    assert who is not None
    assert thread_comm == "worker"
    assert (who.comm, who.start_ticks, who.uid, who.inner_pid) == ("engine", 5, 1000, 1)


def test_identities_take_a_zombie_but_nobody_who_lives(proc: Path, table: Identities) -> None:
    """Whoever lives under the number of a process that has exited is somebody else."""
    live(proc, 7, "shell", state="S")
    assert table.take(7, 3) is None
    live(proc, 7, "engine", state="Z")
    who = table.take(7, 3)
    assert who is not None
    assert who.comm == "engine"


def test_identities_keep_the_cgroups_of_v1_that_a_zombie_has_lost(proc: Path, table: Identities) -> None:
    """At its end v1 moves a process to each hierarchy's root; v2 still has its path, so both are taken together."""
    (proc / "self").mkdir()
    mounts = [("memory", "cgroup", "rw,memory"), ("unified", "cgroup2", "rw")]
    lines = [
        f"3{number} 24 0:26 / /cg/{name} rw - {kind} {kind} {options}\n"
        for number, (name, kind, options) in enumerate(mounts)
    ]
    (proc / "self" / "mountinfo").write_text("".join(lines), encoding="utf-8")
    for name in ("memory", "unified"):
        (proc.parent / "cg" / name / "a.service").mkdir(parents=True)
    live(proc, 7, "engine", parent=3)
    (proc / "7" / "cgroup").write_text("4:memory:/a.service\n0::/a.service\n", encoding="utf-8")
    table.learn(7)
    live(proc, 7, "engine", parent=3, state="Z")
    (proc / "7" / "cgroup").write_text("4:memory:/\n0::/a.service\n", encoding="utf-8")
    who = table.take(7, 3)
    assert who is not None
    ids = [(proc.parent / "cg" / name / "a.service").stat().st_ino for name in ("memory", "unified")]
    assert who.cgroup == f"memory:{ids[0]}:/a.service\n:{ids[1]}:/a.service\n"
