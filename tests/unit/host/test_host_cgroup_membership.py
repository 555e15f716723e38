"""Where cgroups are mounted, and what a marker remembers of those of a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.host.cgroup_membership import (
    Hierarchy,
    Membership,
    hierarchies,
    hierarchy_of,
    memberships,
    recall,
    remember,
)
from collector.host.files import Host
from collector.model.text import escape_name

V2 = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = (
    "31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    "32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
    "33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "34 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "35 24 0:31 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices",
    "36 24 0:30 / /mnt/again rw - cgroup cgroup rw,memory",
    "37 24 0:32 / /mnt rw - ext4 /dev/vda rw",
)


def host(root: Path, *lines: str) -> Host:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Host(str(root))


def test_hierarchies_are_those_with_files_worth_reading(tmp_path: Path) -> None:
    """v2 first; a hierarchy that is mounted twice counts once, and one without limits not at all."""
    found = hierarchies(host(tmp_path, *HYBRID))
    assert [(sorted(one.controllers), one.point) for one in found] == [
        ([], "/sys/fs/cgroup/unified"),
        (["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct"),
        (["memory"], "/sys/fs/cgroup/memory"),
        (["name=systemd"], "/sys/fs/cgroup/systemd"),
    ]
    text = b"12:cpuacct,cpu:/a\n5:devices:/a\n3:memory:/a/b\n1:name=systemd:/a\n0::/a\n"
    points = [one and one.point for one in (hierarchy_of(member, found) for member in memberships(text))]
    assert points == [
        "/sys/fs/cgroup/cpu,cpuacct",
        None,
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/systemd",
        "/sys/fs/cgroup/unified",
    ]


def test_hierarchies_read_the_kernels_escapes(tmp_path: Path) -> None:
    """Blanks in a mount point are octal."""
    (one,) = hierarchies(host(tmp_path, r"30 24 0:26 /a\040b /my\040cgroups rw - cgroup2 cgroup2 rw"))
    assert (one.point, one.root) == ("/my cgroups", "/a b")


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("/", "/", ""),
        ("/", "/a/b", "a/b"),
        ("/pod", "/pod", ""),
        ("/pod", "/pod/a", "a"),
        ("/pod", "/podx/a", None),
        ("/", "/../other", None),
        ("/", "/a/../b", None),
    ],
)
def test_hierarchy_finds_only_what_is_below_its_mount_point(root: str, path: str, below: str | None) -> None:
    """A container sees a part of the tree; what a namespace shows as above it is not there."""
    assert Hierarchy(frozenset(), "/sys/fs/cgroup", root).relative(path) == below


def test_remember_keeps_the_inode_and_leaves_roots_out(tmp_path: Path) -> None:
    """What is gone already has none."""
    machine = host(tmp_path, *HYBRID)
    (tmp_path / "sys/fs/cgroup/memory/a.service").mkdir(parents=True)
    inode = (tmp_path / "sys/fs/cgroup/memory/a.service").stat().st_ino
    text = b"3:memory:/a.service\n12:cpu,cpuacct:/\n5:devices:/a.service\n0::/a.service\n"
    known = remember(machine, text)
    assert known is not None
    assert recall(known) == (Membership("memory", "/a.service", inode), Membership("", "/a.service", 0))
    assert remember(machine, b"0::/\n") is None


@pytest.mark.parametrize("text", [b"0::/system.slice/engi", b"", b"\n", b"0::", b"no lines at all"])
def test_remember_takes_no_line_that_was_cut_off(text: bytes, tmp_path: Path) -> None:
    """A part of a path is another cgroup's."""
    assert remember(host(tmp_path, V2), text) is None


@given(st.binary(min_size=1, max_size=60).filter(lambda raw: b"\n" not in raw and b"\0" not in raw))
def test_recall_returns_any_name_as_it_was(raw: bytes) -> None:
    """Bytes that are not UTF-8, backslashes, colons; and cut anywhere, it is no other name."""
    path = "/" + os.fsdecode(raw)
    known = f"memory:7:{escape_name(path)}\n"
    assert recall(known) == (Membership("memory", path, 7),)
    assert all(recall(known[:length]) == () for length in range(len(known)))


@given(st.text(max_size=80))
@example(":²:/a\n")
@example(f":{'9' * 5000}:/a\n")
def test_recall_reads_or_leaves_out_anything(text: str) -> None:
    """A ledger may have been written by somebody else."""
    assert all(member.path.startswith("/") for member in recall(text))
