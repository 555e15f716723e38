"""The cgroup of a crash: real cgroups of v1 and v2, real deaths by their limits."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cgroup_tree import cgroups, end, hierarchy_with, let_go, remove, waiting
from collecting import Collected, collect, context, manual
from held import held
from machine import compiled, sysctl

from collector.collectors.base import Context
from collector.collectors.cgroup.cgroup import Cgroup
from collector.collectors.cgroup.level_reader import TOTAL_BYTES
from collector.collectors.cgroup.levels import label
from collector.host.cgroup_membership import Hierarchy
from collector.host.files import Host
from collector.host.process_identity import identify_task
from collector.model.identity import Identity, with_identity
from collector.model.marker import CGROUP, SYSTEM_UNIT, Marker, MarkerKind, ProcessRef

MIB = 1 << 20
GREEDY = (sys.executable, "-S", "-c", "b'x' * (1 << 28)")
GONE = 4000077

every_hierarchy = pytest.mark.parametrize("controller", ["", "memory", "pids"])


def of(process: Identity | None, *, kind: MarkerKind = MarkerKind.EXIT) -> Marker:
    assert process is not None
    return with_identity(Marker(kind=kind, trigger="test", at_s=0.0), process)


def seen(pid: int) -> Marker:
    """Return the marker of a trigger that saw the process while it lived."""
    return of(identify_task(Host(), pid))


def gone(marker: Marker) -> Marker:
    """Return *marker*, of a process that is gone."""
    return msgspec.structs.replace(marker, process=ProcessRef(pid=GONE, start_time_ticks=1))


def own(collected: Collected, hierarchy: Hierarchy) -> dict[str, Any]:
    rows = collected.document("cgroup.json")["hierarchies"]
    return next(row for row in rows if row["hierarchy"] == label(hierarchy))


@pytest.mark.root
def test_cgroup_says_which_limit_a_process_died_of() -> None:
    """The kernel kills for the memory of one cgroup; its counters say so, by bytes and events, also of the zombie."""
    hierarchy = hierarchy_with("memory")
    v1 = bool(hierarchy.controllers)
    limit, counts = ("memory.limit_in_bytes", "memory.failcnt") if v1 else ("memory.max", "memory.events")
    with cgroups(hierarchy, "app.service", "worker", controller="memory") as (outer, service, worker):
        (service / limit).write_text(str(24 * MIB), encoding="utf-8")
        with waiting(worker, *GREEDY) as process:
            marker = seen(process.pid)
            let_go(process)
            end(process)
            collected = collect(Cgroup(), context(marker))
        assert (collected.error, collected.missing, collected.not_applicable) == (None, "", "")
        document = collected.document("cgroup.json")
        finding = next(one for one in document["limits"] if one["name"] == limit)
        assert finding["cgroup"].endswith("/app.service")
        assert finding["limit"] == 24 * MIB
        assert finding["events"]
        assert any(limit in sentence and str(24 * MIB) in sentence for sentence in document["findings"])
        assert int(collected.text(f"{label(hierarchy)}/1/{limit}")) == 24 * MIB
        assert collected.text(f"{label(hierarchy)}/1/{counts}").strip() not in {"", "0"}
        if v1:
            assert "oom_kill 1" in collected.text("v1/memory/0/memory.oom_control")
        rows = own(collected, hierarchy)
        assert rows["confirmed"]
        assert [level["cgroup"] for level in rows["levels"]][:3] == [
            f"/{outer.name}/app.service/worker",
            f"/{outer.name}/app.service",
            f"/{outer.name}",
        ]


@pytest.mark.root
def test_cgroup_of_a_held_process_shows_the_limit_that_its_huge_page_exceeded(tmp_path: Path) -> None:
    """A SIGBUS without any other trace: the process is read while the kernel holds it, and its cgroup says why."""
    hierarchy = hierarchy_with("hugetlb")
    source = tmp_path / "huge.c"
    source.write_text(HUGE, encoding="utf-8")
    program = compiled(source, tmp_path)
    limit = "hugetlb.2MB.limit_in_bytes" if hierarchy.controllers else "hugetlb.2MB.max"
    with sysctl("vm/nr_hugepages", 1), cgroups(hierarchy, "app.service", controller="hugetlb") as (outer, service):
        (service / limit).write_text("0", encoding="utf-8")
        join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$1"', service, program]
        with held(join) as process:
            ctx = context(Marker(kind=MarkerKind.DUMP, trigger="test", at_s=0.0, process=process.process))
            collected = collect(Cgroup(), held_context(ctx, process))
        document = collected.document("cgroup.json")
        assert document["source"] == "process"
        assert own(collected, hierarchy)["confirmed"]
        assert any(f"{outer.name}/app.service" in one and limit in one for one in document["findings"])
        assert document["nearest"]["name"] == limit


HUGE = """
#define _GNU_SOURCE
#include <sys/mman.h>
int main(void)
{
    char *page = mmap(0, 1 << 21, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    return page == MAP_FAILED ? 3 : (*(volatile char *)page = 1);
}
"""


def held_context(ctx: Context, process: Any) -> Context:
    return Context(host=ctx.host, marker=ctx.marker, deadline_s=ctx.deadline_s, held=process)


@pytest.mark.root
@every_hierarchy
def test_cgroup_that_is_gone_leaves_its_parents(controller: str) -> None:
    """systemd removes a unit's cgroup at once: what counted its limits too is above it, and is said to be that."""
    hierarchy = hierarchy_with(controller)
    with cgroups(hierarchy, "app.service") as (outer, service):
        with waiting(service, "true") as process:
            marker = seen(process.pid)
        remove(service)
        collected = collect(Cgroup(), context(gone(marker)))
        row = own(collected, hierarchy)
        assert row["missing"] == "gone"
        assert [level["cgroup"] for level in row["levels"]] == [f"/{outer.name}", "/"]
        assert f"/{outer.name}/app.service is gone" in collected.not_applicable
        assert not any(path.startswith(f"{label(hierarchy)}/0/") for path in collected.artifacts)


@pytest.mark.root
@every_hierarchy
def test_cgroup_of_a_later_run_is_not_the_crashes(controller: str) -> None:
    """A unit that was started again has the same path; its files are another run's, and are not kept."""
    hierarchy = hierarchy_with(controller)
    with cgroups(hierarchy, "app.service") as (_, service):
        with waiting(service, "true") as process:
            marker = seen(process.pid)
        remove(service)
        service.mkdir()
        collected = collect(Cgroup(), context(gone(marker)))
        assert "another cgroup" in own(collected, hierarchy)["missing"]
        assert "another cgroup" in collected.not_applicable
        assert not any(path.startswith(f"{label(hierarchy)}/0/") for path in collected.artifacts)


@pytest.mark.root
def test_cgroup_of_a_zombie_that_was_removed_is_gone_even_if_its_name_is_back() -> None:
    """The kernel still shows a zombie's path, with a mark; a name of that path is another cgroup."""
    hierarchy = hierarchy_with("")
    with cgroups(hierarchy, "app.service") as (_, service):
        with waiting(service, "true") as process:
            let_go(process)
            end(process)
            service.rmdir()
            service.mkdir()
            (service.parent / "app.service (deleted)").mkdir()
            marker = manual(process.pid)
            marker = msgspec.structs.replace(marker, kind=MarkerKind.EXIT)
            collected = collect(Cgroup(), context(marker))
        row = own(collected, hierarchy)
        assert (row["missing"], row["cgroup"].rpartition("/")[2]) == ("gone", "app.service")
        assert not any(path.startswith("v2/0/") for path in collected.artifacts)


@pytest.mark.root
def test_cgroup_of_a_process_is_asked_of_it_and_not_of_whoever_has_its_number() -> None:
    """With another start time, the PID's cgroup is somebody else's: what the trigger saw counts."""
    hierarchy = hierarchy_with("")
    with (
        cgroups(hierarchy, "mine.service") as (_, mine),
        cgroups(hierarchy, "theirs.service") as (_, theirs),
        waiting(mine, "true") as crashed,
        waiting(theirs, "true") as other,
    ):
        marker = seen(crashed.pid)
        now = msgspec.structs.replace(marker, process=ProcessRef(pid=other.pid, start_time_ticks=1))
        collected = collect(Cgroup(), context(now))
        assert collected.document("cgroup.json")["source"] == "remembered"
        assert own(collected, hierarchy)["cgroup"].endswith("/mine.service")
        assert str(other.pid) not in collected.text("v2/0/cgroup.procs").split()


@pytest.mark.root
def test_cgroup_of_a_unit_that_root_names_is_said_to_be_doubtful() -> None:
    """Root's report names a unit; whether it runs again by now cannot be known without an inode."""
    hierarchy = hierarchy_with("")
    with cgroups(hierarchy, "inner.slice", "app@1.service") as (outer, _, unit):
        marker = Marker(
            kind=MarkerKind.NOTIFICATION, trigger="test", at_s=0.0, attributes={SYSTEM_UNIT: unit.name}, unit=unit.name
        )
        collected = collect(Cgroup(), context(marker))
        row = own(collected, hierarchy)
        assert row["cgroup"] == f"/{outer.name}/inner.slice/app@1.service"
        assert not row["confirmed"]
        assert "later run" in collected.missing
        said_by_a_user = msgspec.structs.replace(marker, attributes={})
        collected = collect(Cgroup(), context(said_by_a_user))
        assert not collected.artifacts
        assert "nothing tells" in collected.not_applicable


@pytest.mark.root
@pytest.mark.parametrize(
    "name", [b"a b", b"back\\slash", b"\xff\xfe", "ü\u202e".encode(), b"x\ty:z", b"...", b",task_memcg=", b"\\x41"]
)
def test_cgroup_with_a_hostile_name_is_read_and_shown_escaped(name: bytes) -> None:
    """Whoever a cgroup is delegated to chooses names: they form no path of an artifact, and lead to no other cgroup."""
    hierarchy = hierarchy_with("")
    with cgroups(hierarchy, os.fsdecode(name)) as (_, group), waiting(group, "true") as process:
        for marker in (manual(process.pid), gone(seen(process.pid))):
            collected = collect(Cgroup(), context(marker))
            assert str(process.pid) in collected.text("v2/0/cgroup.procs").split()
            row = own(collected, hierarchy)
            assert row["cgroup"].isprintable()
            assert row["confirmed"]
            assert os.fsencode(group.name) == name


@pytest.mark.root
@pytest.mark.parametrize("limit", [1, 2, 6, 16])
def test_cgroup_reads_the_deepest_levels_and_those_next_to_the_root(limit: int) -> None:
    """A chain of any depth costs no more than the limit, and its own level is always there."""
    hierarchy = hierarchy_with("")
    names = [f"level-{number}" for number in range(1, 40)]
    with cgroups(hierarchy, *names) as made, waiting(made[-1], "true") as process:
        collected = collect(Cgroup(max_levels=limit), context(manual(process.pid)))
        row = own(collected, hierarchy)
        numbers = [int(level["directory"].rpartition("/")[2]) for level in row["levels"]]
        assert row["depth"] == 41
        assert len(numbers) == limit
        near_the_root = min(4, limit - 1)
        assert numbers == [*range(limit - near_the_root), *range(41 - near_the_root, 41)]


def test_cgroup_that_is_huge_is_cut(tmp_path: Path) -> None:
    """Files as long as on a machine with a thousand disks: bounded, each and all together, and said."""
    marker = fake(tmp_path, "/a/b/c/d/e/f", {"io.stat": b"8:0 rbytes=1\n" * 40_000, "memory.stat": b"x 1\n" * 40_000})
    collected = collect(Cgroup(), context(marker, root=str(tmp_path)))
    assert collected.artifacts["v2/0/io.stat"].artifact.truncated
    assert sum(len(one.data) for path, one in collected.artifacts.items() if path != "cgroup.json") == TOTAL_BYTES
    assert "only the first 512 KiB" in collected.missing


def test_cgroup_finds_the_limit_on_a_level_above(tmp_path: Path) -> None:
    """v2: the unit is within its own limits, its slice is not; the local events tell whose limit it was."""
    marker = fake(
        tmp_path,
        "/a.slice/b.service",
        {"memory.current": b"4096\n", "memory.max": b"max\n", "memory.events": b"max 0\noom_kill 1\n"},
    )
    slice_ = tmp_path / "sys/fs/cgroup/a.slice"
    for name, text in {
        "memory.max": "1000000",
        "memory.current": "999000",
        "memory.peak": "1000000",
        "memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n",
        "memory.events.local": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\n",
        "pids.max": "max",
    }.items():
        (slice_ / name).write_text(text + "\n", encoding="utf-8")
    collected = collect(Cgroup(), context(marker, root=str(tmp_path)))
    document = collected.document("cgroup.json")
    assert document["findings"] == [
        "/a.slice: 999000 of 1000000 bytes allowed by memory.max, peak 1000000, max 7, oom 1"
    ]
    assert document["nearest"]["directory"] == "v2/1"
    assert document["hierarchies"][0]["levels"][0]["events"] == {"memory.events": {"oom_kill": 1}}


def test_cgroup_that_is_mounted_elsewhere_is_not_mistaken_for_the_root_here(tmp_path: Path) -> None:
    """A collector in a container sees a part of the tree: its root is not the crash's parent."""
    marker = fake(tmp_path, "/a", {"memory.current": b"1\n"})
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1\n", encoding="utf-8")
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text(encoding="utf-8").replace("0:26 / ", "0:26 /pod "), encoding="utf-8")
    collected = collect(Cgroup(), context(marker, root=str(tmp_path)))
    assert "not below the mount point" in collected.missing
    assert set(collected.artifacts) == {"cgroup.json"}


@pytest.mark.parametrize(("state", "flags"), [("R", 0x4), ("Z", 0)])
def test_cgroup_of_a_process_that_exits_is_the_one_it_was_in(tmp_path: Path, state: str, flags: int) -> None:
    """From the beginning of its end v1 shows it at the root; freeing its memory takes long, and it runs meanwhile."""
    marker = fake(tmp_path, "/a", {"memory.current": b"1\n"})
    marker = msgspec.structs.replace(marker, process=ProcessRef(pid=42, start_time_ticks=5))
    fields = [state, "1", *["0"] * 4, str(flags), *["0"] * 12, "5", *["0"] * 30]
    (tmp_path / "proc/42").mkdir()
    (tmp_path / "proc/42/stat").write_text(f"42 (x) {' '.join(fields)}\n", encoding="utf-8")
    (tmp_path / "proc/42/cgroup").write_text("0::/\n", encoding="utf-8")
    collected = collect(Cgroup(), context(marker, root=str(tmp_path)))
    assert (collected.missing, collected.not_applicable) == ("", "")
    assert collected.text("v2/0/memory.current") == "1\n"
    nothing_known = msgspec.structs.replace(marker, attributes={})
    reason = collect(Cgroup(), context(nothing_known, root=str(tmp_path))).not_applicable
    assert reason == "nothing tells the cgroup: process 42: it is exiting, and shows no cgroup any more"


def test_cgroup_that_is_not_mounted_here_is_missing(tmp_path: Path) -> None:
    """The trigger saw a hierarchy that this process cannot: nothing was read, and that is said."""
    marker = fake(tmp_path, "/a", {"memory.current": b"1\n"})
    marker = msgspec.structs.replace(marker, attributes={CGROUP: "memory:7:/a\n"})
    collected = collect(Cgroup(), context(marker, root=str(tmp_path)))
    assert collected.not_applicable == "its cgroups are not mounted here"
    assert not collected.artifacts


def fake(root: Path, path: str, files: dict[str, bytes]) -> Marker:
    """Make a v2 hierarchy below *root*, the same files at each level; return the marker of a process in *path*."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    mount = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    (root / "proc/self/mountinfo").write_text(mount, encoding="utf-8")
    directory = root / "sys/fs/cgroup"
    for name in path.strip("/").split("/"):
        directory /= name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").touch()
        for file, data in files.items():
            (directory / file).write_bytes(data)
    known = f":{directory.stat().st_ino}:{path}\n"
    return Marker(kind=MarkerKind.EXIT, trigger="test", at_s=0.0, comm="x", attributes={CGROUP: known})


def test_cgroup_is_not_applicable_where_the_marker_names_nobody() -> None:
    """A run by hand has no crash; a core of a process that nobody saw has no cgroup."""
    assert "nobody was named" in collect(Cgroup(), context()).not_applicable
    core = Marker(kind=MarkerKind.KERNEL_LOG, trigger="test", at_s=0.0, comm="engine")
    assert "nothing tells" in collect(Cgroup(), context(core)).not_applicable


def test_cgroup_of_a_process_given_by_hand_that_is_gone_is_missing() -> None:
    """It was asked for by name."""
    assert collect(Cgroup(), context(manual(GONE))).missing


@pytest.mark.root
def test_cgroup_of_a_shortened_marker_is_not_one_whose_name_begins_alike() -> None:
    """A marker that is too long is cut: what is left of a path may be another's."""
    hierarchy = hierarchy_with("")
    with cgroups(hierarchy, "app") as (_, other), cgroups(hierarchy, "app-of-somebody") as (_, group):
        with waiting(group, "true") as process:
            marker = seen(process.pid)
        known = f":0:/{other.parent.name}/app"
        cut = msgspec.structs.replace(gone(marker), attributes={CGROUP: known})
        assert not collect(Cgroup(), context(cut)).artifacts


@pytest.mark.root
def test_cgroups_of_several_processes_given_by_hand_are_all_read() -> None:
    """Each cgroup once, the first process's at the usual place; one that is gone is missing."""
    hierarchy = hierarchy_with("")
    with (
        cgroups(hierarchy, "one.service") as (_, one),
        cgroups(hierarchy, "two.service") as (_, two),
        waiting(one, "true") as first,
        waiting(one, "true") as same,
        waiting(two, "true") as other,
    ):
        collected = collect(Cgroup(), context(manual(first.pid, same.pid, other.pid)))
        assert not collected.missing
        assert own(collected, hierarchy)["cgroup"].endswith("/one.service")
        rows = collected.document("also/2/cgroup.json")["hierarchies"]
        assert any(row["cgroup"].endswith("/two.service") for row in rows)
        assert str(other.pid) in collected.text("also/2/v2/0/cgroup.procs").split()
        assert not any(path.startswith("also/1/") for path in collected.artifacts)
        assert f"process {GONE}" in collect(Cgroup(), context(manual(first.pid, GONE))).missing
        many = collect(Cgroup(), context(manual(*[first.pid] * 9)))
        assert "1 more than 8 processes" in many.missing
