from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from crowd import crowd

from collector.collectors.process.process_selection import WITH_EXE, matching
from collector.collectors.process_table.commands import commands
from collector.collectors.process_table.process_table import rows
from collector.host.files import Host
from collector.host.guarded_read import Guard
from collector.host.own_procfs import RENEW_AFTER, Procfs, batches
from collector.host.read_errors import ReadErrors
from collector.model.redaction import Redaction

pytestmark = [
    pytest.mark.root,
]
MANY = 1500
ORDINARY = Host("/.")
"""The same ``/proc`` by another name: what lies below another root is read as it is, and in full."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[int]]:
    """Three batches of processes that nobody has looked at."""
    with crowd(tmp_path_factory.mktemp("crowd"), MANY) as pids:
        assert len(pids) == MANY
        yield pids


def inodes() -> int:
    """Return the inodes in memory: exact at once, though the kernel frees them a little later."""
    return int(Path("/proc/sys/fs/inode-nr").read_text().split()[0])


def growth(walk: Iterable[object]) -> tuple[int, int]:
    """Return by how many inodes the kernel's caches grow while *walk* is walked, at most and in the end."""
    before = most = inodes()
    for _ in walk:
        most = max(most, inodes())
    return most - before, inodes() - before


def kept_small(directory: Path, walk: Callable[[Host], Iterable[object]], *, names: int) -> bool:
    """
    Return whether *walk* holds less than half of what it holds the ordinary way, and leaves less than a tenth.

    Each time beside processes that nobody has looked at. Others use the caches meanwhile, so one quiet look of ten
    counts: one in which the ordinary way leaves as many inodes as names are looked up.
    """
    for _ in range(10):
        with crowd(directory, MANY):
            most, left = growth(walk(Host()))
            _, ordinary = growth(walk(ORDINARY))
        print(f"own: at most {most}, left {left}; ordinary: left {ordinary}")
        quiet = 0.9 * names * MANY < ordinary < 1.3 * names * MANY
        if quiet and most < ordinary / 2 and abs(left) < ordinary / 10:
            return True
    return False


def test_rows_leave_nothing_behind_and_never_hold_more_than_one_batch(tmp_path: Path) -> None:
    """Directory, stat, status, both OOM scores, wchan and cgroup of each process."""
    assert kept_small(tmp_path, lambda host: rows(host, 0.0), names=7)


def test_commands_leave_nothing_behind_and_never_hold_more_than_one_batch(tmp_path: Path) -> None:
    """Directory, stat, cmdline and io of each process, through a helper thread."""
    with closing(Guard(5.0)) as guard:
        assert kept_small(
            tmp_path, lambda host: commands(host, Redaction(), guard, ReadErrors(), lambda: 60.0), names=4
        )


def test_match_leaves_nothing_behind_and_never_holds_more_than_one_batch(tmp_path: Path) -> None:
    """Directory, stat, exe and status of each process."""
    assert kept_small(tmp_path, lambda host: matching(host, ("crowd",)), names=4)


def test_match_finds_the_same_processes(many: set[int]) -> None:
    """Through either procfs."""
    own, ordinary = ({pid for pid, _ in matching(host, ("crowd",)) if pid in many} for host in (Host(), ORDINARY))
    assert own == ordinary == many


def test_walk_gives_each_process_once_in_small_batches(many: set[int]) -> None:
    """Renewed between, no process is lost and none comes twice."""
    listed = [found for _, found in batches(Host())]
    everything = [pid for found in listed for pid in found]
    assert many | {1, os.getpid()} <= set(everything)
    assert len(everything) == len(set(everything))
    assert max(map(len, listed)) <= RENEW_AFTER


def test_rows_are_those_of_the_ordinary_procfs(many: set[int]) -> None:
    """Every column of every idle process, whoever mounted what it was read from."""
    own, ordinary = (
        [row for row in rows(host, 1e9) if row.partition(b"\t")[0] in {b"%d" % pid for pid in many}]
        for host in (Host(), ORDINARY)
    )
    assert len(own) == MANY
    assert sorted(own) == sorted(ordinary)


def test_walk_shows_the_processes_of_another_root_as_they_lie_there(tmp_path: Path) -> None:
    """Another root is another machine: no procfs of ours would show its processes."""
    (tmp_path / "proc" / "42").mkdir(parents=True)
    assert [found for _, found in batches(Host(str(tmp_path)))] == [[42]]


def test_walk_shows_what_proc_shows_if_proc_is_another_namespaces() -> None:
    """In a PID namespace of its own with the machine's /proc, a new procfs would have one process."""
    count = "from collector.host.own_procfs import *; print(sum(len(found) for _, found in batches(Host())))"
    argv = ["unshare", "--pid", "--fork", sys.executable, "-c", count]
    assert int(subprocess.run(argv, capture_output=True, check=True).stdout) > 2


@pytest.mark.parametrize("taken", [0, 1, 2, 99])
def test_walk_leaves_no_descriptor_open(many: set[int], taken: int) -> None:
    """At its end, stopped half-way, or before it begins."""
    before = os.listdir("/proc/self/fd")
    walk = batches(Host())
    for _, _ in zip(range(taken), walk, strict=False):
        pass
    walk.close()
    assert os.listdir("/proc/self/fd") == before


def test_walk_leaves_no_mount_behind(many: set[int]) -> None:
    """It is never attached: no other process sees it."""
    before = procfs_mounts()
    for _ in batches(Host()):
        assert procfs_mounts() == before


def procfs_mounts() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - proc " in line]


def test_procfs_opens_nothing_once_it_is_closed() -> None:
    """A helper thread that comes back must not use a descriptor number that is another file's by then."""
    procfs = Procfs.own()
    with procfs.process(os.getpid()):
        pass
    procfs.close()
    again = os.open("/proc", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            procfs.process(os.getpid())
    finally:
        os.close(again)


UNPRIVILEGED = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from collecting import collect, context
from collector.collectors.process.process import ProcessDetails
from collector.collectors.process_table import commands, process_table
from collector.collectors.process_table.process_table import ProcessTable
from collector.host import own_procfs
from collector.collectors.process import process_selection
factor = float(sys.argv[2])
process_table.WHOLE = commands.WHOLE = int(process_table.WHOLE * factor)
process_selection.WITH_EXE = int(process_selection.WITH_EXE * factor)
process_table.STAT_ONLY = process_selection.STAT_ONLY = int(own_procfs.STAT_ONLY * factor)
before = os.listdir("/proc/self/fd")
table, match = collect(ProcessTable()), collect(ProcessDetails(match=("crowd",), max_processes=3))
print(json.dumps({
    "table": table.table("processes.tsv"),
    "cuts": [table.artifacts[name].cut for name in ("processes.tsv", "commands.tsv")],
    "commands": len(table.table("commands.tsv")),
    "matched": [row["outcome"] for row in match.rows("inventory.jsonl")],
    "compared": [row["detail"] for row in collect(ProcessDetails(match=("no such",))).rows("inventory.jsonl")],
    "leaked": os.listdir("/proc/self/fd") != before,
    "most": [process_table.WHOLE, process_table.STAT_ONLY],
}))
"""


def without_capability(factor: float) -> Any:
    """Collect as root without CAP_SYS_ADMIN; a *factor* on the limits takes the place of fewer or more processes."""
    argv = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", UNPRIVILEGED]
    argv += [str(Path(__file__).parents[1]), str(factor)]
    found = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert not found["leaked"]
    return found


def where_fit(share: float) -> float:
    """
    Return the factor with which four look-ups each fit for *share* times as many processes as there are now.

    Then nine fit for less than half, and two for twice as many: other tests run processes of their own meanwhile.
    """
    return share * sum(name.isdigit() for name in os.listdir("/proc")) / WITH_EXE


def test_table_is_whole_without_the_capability_while_there_are_few_processes(many: set[int]) -> None:
    """What they leave behind stays within 8 MiB."""
    found = without_capability(factor=100)
    rows = {int(row["pid"]): row for row in found["table"]}
    assert many < rows.keys()
    assert all(rows[pid]["uid"] and rows[pid]["cgroup"] for pid in many)
    assert found["commands"] > MANY
    assert found["cuts"] == [None, None]
    assert found["compared"] == []


def test_table_without_the_capability_has_only_stat_of_many_processes_and_says_so(many: set[int]) -> None:
    """All processes are there with the fields of stat; what is missing is reported, with what to do about it."""
    found = without_capability(factor=where_fit(1.6))
    rows = {int(row["pid"]): row for row in found["table"]}
    assert many < rows.keys()
    assert all(rows[pid]["comm"] == "crowd" and rows[pid]["uid"] == rows[pid]["cgroup"] == "" for pid in many)
    assert found["commands"] == 0
    for cut, what in zip(found["cuts"], ("only stat was read", "command lines and I/O counters"), strict=True):
        assert what in cut
        assert "run as root with CAP_SYS_ADMIN, on Linux 5.8" in cut
    assert found["compared"] == []  # three names of each fit where nine do not


def test_match_without_the_capability_compares_only_names_of_many_processes_and_says_so(many: set[int]) -> None:
    """An executable's path costs one more look-up each."""
    found = without_capability(factor=where_fit(0.7))
    assert found["matched"] == ["read", "read", "read", "not_read", "not_read"], "beyond the limit, and by name only"
    (detail,) = found["compared"]
    assert detail.startswith("processes were compared by their names only")
    assert "run as root" in detail


def test_table_without_the_capability_ends_where_even_stat_is_too_much(many: set[int]) -> None:
    """The number is limited, and the file says that processes are missing."""
    found = without_capability(factor=0.25)
    assert len(found["table"]) == found["most"][1] < MANY
    assert found["cuts"][0].startswith(f"only {found['most'][1]} processes were read")
    assert len(found["compared"]) == 1
    assert "processes were read" in found["compared"][0]
