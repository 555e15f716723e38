"""The segments of a process: all that it has mapped or open, named or not, while it is held or lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import held_segments
import pytest
from collecting import Collected, collect, context, manual
from held import held
from machine import sysctl

from collector.collectors.process.process import ProcessDetails
from collector.collectors.shm import open_segments
from collector.collectors.shm.shm import Shm

pytestmark = pytest.mark.root
ROOT = Path("/dev/shm")

LIVES = """
import os, sys
fd = os.memfd_create("lives")
os.write(fd, b"l" * 8192)
log = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("ready", flush=True)
sys.stdin.read()
"""

HUGE = """
import mmap, os, sys
fd = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
os.ftruncate(fd, 4 << 20)
kept = mmap.mmap(fd, 2 << 20)
kept[:] = b"h" * (2 << 20)
print("ready", flush=True)
sys.stdin.read()
"""
HUGE_BYTES = 2 << 20


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a segment; whatever has it in the end is removed."""
    chosen = f"collector-held-{os.getpid()}"
    yield chosen
    for left in ROOT.glob(f"{chosen}*"):
        left.unlink()


def own(collected: Collected) -> dict[str, bytes]:
    rows = collected.rows("segments.jsonl")
    return {row["name"]: collected[row["artifact"]] for row in rows if row.get("artifact")}


def meminfo(name: str) -> int:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def test_every_segment_of_a_held_process_is_taken(name: str) -> None:
    """Named, unlinked, memfds mapped and only open, anonymous shared memory, and System V's."""
    with held(held_segments.program(name)) as crashed:
        found = collect(Shm(), context(manual(crashed.process.pid)))
    assert own(found) == held_segments.expected(name)
    assert (found.missing, found.error) == ("", None)
    why = {row["name"]: row["why"] for row in found.rows("segments.jsonl")}
    assert why[name] == "mapped by the crashed process"
    assert why["memfd:only open"] == "open in the crashed process, which still holds it"


def test_process_whose_first_thread_has_exited_still_has_its_evidence(name: str) -> None:
    """Its memory, descriptors, program and namespaces are those of the threads that live."""
    with held(held_segments.without_first_thread(name)) as crashed:
        details = collect(ProcessDetails(), context(manual(crashed.process.pid)))
        found = collect(Shm(), context(manual(crashed.process.pid)))
    assert own(found) == held_segments.expected(name)
    assert (found.missing, found.error) == ("", None)
    directory = crashed.process.pid
    assert b"[heap]" in details[f"{directory}/maps"]
    assert details[f"{directory}/environ"]
    assert "exe" in json.loads(details[f"{directory}/links.json"])["links"]
    assert {row["fd"] for row in details.rows(f"{directory}/fds.jsonl")} >= {0, 1, 2}
    assert f"{directory} ".encode() in details[f"{directory}/stat"]


def test_sources_show_what_has_no_name(name: str) -> None:
    with held(held_segments.program(name)) as crashed:
        found = collect(Shm(), context(manual(crashed.process.pid)))
    artifacts = [taken.artifact for path, taken in found.artifacts.items() if path.startswith("segments/")]
    nameless = held_segments.expected(name).keys() - {name, f"{name}.unlinked"}
    assert {artifact.source.path for artifact in artifacts if artifact.source} == nameless | {
        f"/dev/shm/{name}",
        f"/dev/shm/{name}.unlinked",
    }


def test_segments_of_a_held_process_in_namespaces_are_its_own(name: str) -> None:
    """The host has a segment of the same name: nothing of it is taken for the crash's."""
    (ROOT / name).write_bytes(b"the host's")
    with held(held_segments.in_namespaces(held_segments.program(name))) as crashed:
        details = collect(ProcessDetails(), context(manual(crashed.process.pid)))
        found = collect(Shm(), context(manual(crashed.process.pid)))
    assert own(found) == held_segments.expected(name)
    assert found.missing == ""
    assert b"[stack]" in details[f"{crashed.process.pid}/maps"]
    assert [row["outcome"] for row in details.rows("inventory.jsonl")] == ["read"]


def test_excluded_nameless_segment_is_left_out(name: str) -> None:
    with held(held_segments.program(name)) as crashed:
        found = collect(Shm(exclude=("memfd:*", "SYSV*")), context(manual(crashed.process.pid)))
    assert not [one for one in own(found) if one.startswith(("memfd:", "SYSV"))]
    assert found.missing == ""


def test_memfd_of_a_live_process_is_taken_and_other_files_are_not(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-c", LIVES, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        found = collect(Shm(), context(manual(child.pid)))
        child.communicate()
    assert own(found) == {"memfd:lives": b"l" * 8192}


def test_memfd_of_huge_pages_is_taken() -> None:
    """It is on hugetlbfs, whose holes get no page when they are read."""
    size = HUGE_BYTES
    with sysctl("vm/nr_hugepages", 4):
        if int(Path("/proc/sys/vm/nr_hugepages").read_text()) < 4:
            pytest.skip("needs 8 MiB of huge pages")
        with subprocess.Popen(
            [sys.executable, "-I", "-c", HUGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            found = collect(Shm(), context(manual(child.pid)))
            free = meminfo("HugePages_Free")
            child.communicate()
    assert own(found) == {"memfd:huge": b"h" * size + bytes(size)}
    assert free == 3


def test_segments_beyond_the_descriptors_looked_at_are_not_silently_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_segments, "MAX_FDS", 3)
    argv = [sys.executable, "-I", "-c", LIVES, "/dev/null"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        found = collect(Shm(), context(manual(child.pid)))
        child.communicate()
    assert "only the first 3 descriptors were looked at" in found.missing
