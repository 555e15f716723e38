from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fake_core
import msgspec
import pytest
from collecting import Collected, collect, context, core_ref, manual, take
from hanging_fuse import mounted, wedged_process

from collector.collectors.shm import death
from collector.collectors.shm.mapped_segments import MAX_OWN
from collector.collectors.shm.shm import From, Shm
from collector.model.artifact import Bulk, Truncated
from collector.model.marker import CoreRef, MarkerKind
from collector.model.text import escape_name

ROOT = Path("/dev/shm")
NOBODY = 65534
OWNER = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
HOLD = """
import mmap, os, sys
held = []
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDWR)
    held.append(mmap.mmap(fd, 0))
    os.close(fd)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def own() -> Iterator[Path]:
    """A directory of the test's own in the real /dev/shm."""
    path = ROOT / f"collector-test-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


def segment(path: Path, data: bytes = b"x" * 8192) -> str:
    """Write a segment; return its name below /dev/shm."""
    path.write_bytes(data)
    return str(path.relative_to(ROOT))


@contextlib.contextmanager
def holder(*paths: Path) -> Iterator[int]:
    """Run a process that has segments mapped."""
    argv = [sys.executable, "-c", HOLD, *map(str, paths)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
        child.stdin.close()


def core_of(path: Path, *names: bytes) -> CoreRef:
    """Write a core whose process had *names* mapped; return a reference to it."""
    files = [(0x1000, 0x2000, 0, name) for name in names]
    path.write_bytes(fake_core.core(fake_core.note(fake_core.NT_FILE, fake_core.nt_file(files))))
    return core_ref(str(path))


def chosen(collected: Collected) -> dict[str, bytes]:
    """Return what was taken, by the segment's name."""
    return {row["name"]: collected[row["artifact"]] for row in collected.rows("segments.jsonl") if row.get("artifact")}


def shm(**fields: object) -> Shm:
    return Shm(**fields)  # type: ignore[arg-type]


def test_shm_lists_everything_and_copies_only_what_is_wanted(own: Path) -> None:
    """The inventory is free; bytes are copied only for a reason."""
    name = segment(own / "a")
    collected = collect(Shm())
    row = next(row for row in collected.rows("inventory.jsonl") if row["name"] == name)
    assert (row["size_bytes"], row["data_bytes"], row["uid"], row["links"], row["mode"]) == (
        8192,
        8192,
        os.geteuid(),
        1,
        "0644",
    )
    assert chosen(collected) == {}


def test_shm_takes_what_globs_name_glob_by_glob(own: Path) -> None:
    """In the order of the list, smallest first, without what is excluded."""
    large, small = segment(own / "b.large", b"l" * 20_000), segment(own / "b.small", b"s" * 100)
    first = segment(own / "a.first", b"f" * 50_000)
    segment(own / "b.tmp")
    collected = collect(shm(segments=(f"{own.name}/a.*", f"{own.name}/b.*"), exclude=("*.tmp",)))
    assert list(chosen(collected).items()) == [(first, b"f" * 50_000), (small, b"s" * 100), (large, b"l" * 20_000)]
    (excluded,) = [row for row in collected.rows("segments.jsonl") if row.get("not_taken")]
    assert (excluded["name"], excluded["not_taken"]) == (f"{own.name}/b.tmp", "excluded")


def test_shm_plan_is_on_disk_before_the_first_byte_is_copied(own: Path) -> None:
    """Metadata first: the plan comes before all segments; the inventory, which anybody can make long, comes last."""
    segment(own / "a")
    paths = list(collect(shm(segments=(f"{own.name}/*",))).artifacts)
    assert paths == ["segments.jsonl", "segments/0001", "inventory.jsonl"]


def test_shm_takes_the_segments_of_a_dead_process(own: Path, tmp_path: Path) -> None:
    """Known from its core; missing ones are listed, other mapped files are ignored."""
    name = segment(own / "engine.1", b"evidence")
    elsewhere = (b"/usr/lib/libc.so", b"/dev/shm/../../etc/passwd", b"/memfd:x (deleted)")
    gone, never = os.fsencode(own / "gone") + b" (deleted)", os.fsencode(own / "never")
    core = core_of(tmp_path / "core", os.fsencode(own / "engine.1"), gone, never, *elsewhere)
    collected = collect(Shm(), context(manual(core=core)))
    assert chosen(collected) == {name: b"evidence"}
    reasons = {row["name"]: row["not_taken"] for row in collected.rows("segments.jsonl") if row.get("not_taken")}
    assert set(reasons) == {f"{own.name}/gone", f"{own.name}/never"}
    assert all(reason.startswith("deleted") for reason in reasons.values())


def test_shm_does_not_copy_what_a_restarted_service_created_under_the_same_name(own: Path, tmp_path: Path) -> None:
    """The segment is newer than the core, so it is not the crash's, and is copied only if a glob names it."""
    core = core_of(tmp_path / "core", os.fsencode(own / "engine.1"))
    time.sleep(0.02)  # file times are up to a tick old
    name = segment(own / "engine.1", b"after the restart")
    collected = collect(Shm(), context(manual(core=core)))
    assert chosen(collected) == {}
    (row,) = collected.rows("segments.jsonl")
    assert (row["name"], row["why"]) == (name, "mapped by the crashed process")
    assert "created after the crash" in row["not_taken"]
    asked = collect(shm(segments=(f"{own.name}/*",)), context(manual(core=core)))
    assert chosen(asked) == {name: b"after the restart"}
    assert [row["why"] for row in asked.rows("segments.jsonl") if row.get("artifact")] == [f"matches {own.name}/*"]


def test_shm_copies_the_crashs_own_if_core_times_are_whole_seconds(own: Path, tmp_path: Path) -> None:
    """Created half a second before the crash, it looks newer than the core, and is still copied."""
    name = segment(own / "engine.1", b"evidence")
    core_of(tmp_path / "core", os.fsencode(own / "engine.1"))
    os.utime(tmp_path / "core", (int(time.time()),) * 2)
    collected = collect(Shm(), context(manual(core=core_ref(str(tmp_path / "core")))))
    assert chosen(collected) == {name: b"evidence"}


@pytest.mark.parametrize(
    ("by_s", "reason"),
    [(-3600.0, "the core is a copy"), (3600.0, "a time lies in the future"), (None, "set back by 60 s")],
)
def test_shm_takes_what_only_a_wrong_clock_makes_newer_than_the_crash(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_s: float | None, reason: str
) -> None:
    """A core with the times of a copy or of another clock proves nothing: `why` and the step's reason say so."""
    name = segment(own / "engine.1", b"evidence")
    core_of(tmp_path / "core", os.fsencode(own / "engine.1"))
    if by_s is not None:
        os.utime(tmp_path / "core", (time.time() + by_s,) * 2)
    else:
        monkeypatch.setattr(death.clock, "set_back_s", lambda: 60.0)
        time.sleep(0.02)  # file times are up to a tick old
        (own / "engine.1").unlink()
        segment(own / "engine.1", b"evidence")
    collected = collect(Shm(), context(manual(core=core_ref(str(tmp_path / "core")))))
    assert chosen(collected) == {name: b"evidence"}
    (row,) = collected.rows("segments.jsonl")
    assert reason in row["why"]
    assert reason in collected.missing
    assert escape_name(name) in collected.missing


def test_shm_does_not_take_for_its_own_what_was_created_after_the_core_was_copied(own: Path, tmp_path: Path) -> None:
    """A core compressed in place keeps the time of its writing; it was there before the restarted service was."""
    core_of(tmp_path / "core", os.fsencode(own / "engine.1"))
    os.utime(tmp_path / "core", (time.time() - 3600.0,) * 2)
    time.sleep(0.02)  # file times are up to a tick old
    segment(own / "engine.1", b"after the restart")
    collected = collect(Shm(), context(manual(core=core_ref(str(tmp_path / "core")))))
    assert chosen(collected) == {}
    assert "no longer there" in collected.missing


def test_shm_excluded_segments_are_not_doubtful(own: Path, tmp_path: Path) -> None:
    """Nothing of what is not wanted makes the step truncated."""
    segment(own / "engine.tmp")
    core_of(tmp_path / "core", os.fsencode(own / "engine.tmp"))
    os.utime(tmp_path / "core", (time.time() - 3600.0,) * 2)
    collected = collect(shm(exclude=("*.tmp",)), context(manual(core=core_ref(str(tmp_path / "core")))))
    assert (chosen(collected), collected.missing) == ({}, "")


def test_shm_takes_the_segments_of_a_live_process(own: Path) -> None:
    """Known from its maps; what only other processes have mapped is not copied."""
    name = segment(own / "mine", b"mine" * 1024)
    segment(own / "other")
    with holder(own / "mine") as pid:
        collected = collect(Shm(), context(manual(pid)))
    assert chosen(collected) == {name: b"mine" * 1024}
    assert collected.rows("segments.jsonl")[0]["why"] == "mapped by the crashed process"


@pytest.mark.root
def test_shm_takes_a_deleted_segment_from_the_process_that_still_holds_it(own: Path) -> None:
    """Many programs unlink what they have mapped; it is read through the mapping."""
    name = segment(own / "unlinked", b"still there")
    with holder(own / "unlinked") as pid:
        (own / "unlinked").unlink()
        segment(own / "unlinked", b"somebody else's")
        collected = collect(Shm(), context(manual(pid)))
    assert chosen(collected) == {name: b"still there"}


def test_shm_does_not_mistake_another_file_for_the_crashs_own(own: Path) -> None:
    """Same name, other inode: without permission to follow the mapping it is listed as gone."""
    segment(own / "unlinked", b"the crash's")
    with holder(own / "unlinked") as pid:
        (own / "unlinked").unlink()
        segment(own / "unlinked", b"somebody else's")
        collected = collect(shm(exclude=("unlinked",)), context(manual(pid)))
    assert chosen(collected) == {}


@pytest.mark.parametrize("name", ["x (deleted)", "x (deleted) (deleted)", " (deleted)"])
def test_shm_takes_a_segment_that_is_really_named_deleted(own: Path, name: str) -> None:
    """The kernel marks removed files the same way; the inode tells."""
    segment(own / "x", b"another")
    taken = segment(own / name, b"evidence")
    with holder(own / name) as pid:
        collected = collect(Shm(), context(manual(pid)))
    assert chosen(collected) == {taken: b"evidence"}


@pytest.mark.root
def test_shm_tells_a_removed_segment_from_one_that_is_named_deleted(own: Path) -> None:
    """Both of them are mapped, and look the same."""
    removed, named = segment(own / "x", b"removed"), segment(own / "x (deleted)", b"named so")
    with holder(own / "x", own / "x (deleted)") as pid:
        (own / "x").unlink()
        collected = collect(Shm(), context(manual(pid)))
        (own / "x (deleted)").unlink()
        again = collect(Shm(), context(manual(pid)))
    assert chosen(collected) == chosen(again) == {removed: b"removed", named: b"named so"}


def test_shm_takes_what_a_core_may_have_named_deleted_and_says_so(own: Path, tmp_path: Path) -> None:
    """A core has no inodes: what is doubtful is taken."""
    name = segment(own / "x (deleted)", b"evidence")
    segment(own / "x", b"another")
    core = core_of(tmp_path / "core", os.fsencode(own / "x (deleted)"))
    collected = collect(Shm(), context(manual(core=core)))
    assert chosen(collected) == {name: b"evidence"}
    (row,) = collected.rows("segments.jsonl")
    assert (
        row["why"] == f"same name as one mapped by the crashed process, not confirmed, or a removed '{own.name}/x' was"
    )


def test_shm_from_none_takes_globs_only(own: Path) -> None:
    """The operator's choice."""
    segment(own / "mine")
    with holder(own / "mine") as pid:
        assert chosen(collect(shm(from_=From.NONE), context(manual(pid)))) == {}


def test_shm_limits_count_data_and_not_length(own: Path) -> None:
    """A sparse segment of 1 GiB with two pages of data fits into 1 MiB; one that does not fit is listed."""
    with (own / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"x" * 8192)
    segment(own / "dense", b"d" * (2 << 20))
    collected = collect_plan(shm(segments=(f"{own.name}/*",), max_total=1 << 20))
    rows = {row["name"].rpartition("/")[2]: row for row in collected.rows("segments.jsonl")}
    assert rows["sparse"]["artifact"] == "segments/0001"
    assert "exceed the" in rows["dense"]["not_taken"]


def collect_plan(collector: Shm) -> Collected:
    """Collect without reading the segments, one of which has a gibibyte of zeros."""
    collected = Collected()
    for artifact in collector.collect(context()):
        if isinstance(artifact.body, Bulk):
            os.close(artifact.body.fd)
        else:
            collected.artifacts[str(artifact.path)] = take(artifact)
    return collected


def test_shm_cuts_a_segment_that_is_too_long_and_marks_it(own: Path) -> None:
    """The first bytes of data, holes counted in, marked truncated."""
    with (own / "cut").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * (1 << 20))
    collected = collect(shm(segments=(f"{own.name}/*",), max_each=4096))
    taken = collected.artifacts["segments/0001"]
    assert taken.artifact.truncated
    assert len(taken.data) == (1 << 20) + 4096
    assert taken.data.count(b"x") == 4096


@pytest.mark.root
def test_shm_opens_nothing_but_regular_files(own: Path) -> None:
    """A FIFO, a socket, a symlink to a root-only file, a device, a directory under every glob: listed, never read."""
    os.mkfifo(own / "fifo")
    (own / "symlink").symlink_to("/etc/shadow")
    (own / "symlinked-directory").symlink_to("/etc")
    os.mknod(own / "device", 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero: it would never end
    (own / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own / "socket"))
        collected = collect(shm(segments=("*",), max_total=0))
        kinds = {
            row["name"]: row["kind"] for row in collected.rows("inventory.jsonl") if row["name"].startswith(own.name)
        }
        collected = collect(shm(segments=(f"{own.name}/*",)))
    assert set(kinds.values()) == {"FIFO", "socket", "symlink", "character device", "directory"}
    assert collected.rows("segments.jsonl") == []
    assert not [name for name in kinds if name.startswith(f"{own.name}/symlinked-directory/")]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["symlink", "fifo", "file"])
def test_shm_refuses_a_segment_that_was_replaced_before_it_was_opened(own: Path, kind: str) -> None:
    """Between plan and copy the name is given to a new file, which is not copied."""
    segment(own / "a")
    segment(own / "b", b"another")
    steps = shm(segments=(f"{own.name}/a",)).collect(context())
    for artifact in steps:
        list(artifact.body)  # type: ignore[arg-type]
        if str(artifact.path) == "segments.jsonl":
            break
    (own / "a").unlink()
    if kind == "symlink":
        (own / "a").symlink_to("/etc/shadow")
    elif kind == "fifo":
        os.mkfifo(own / "a")
    else:
        (own / "b").rename(own / "a")
    for artifact in steps:
        list(artifact.body)  # type: ignore[arg-type]
        if str(artifact.path) == "unread.jsonl":
            break
    with pytest.raises(Truncated, match=f"no longer there: {own.name}/a"):
        next(steps)


def without_list(path: Path, *, cut: bool = False) -> CoreRef:
    """Write a core without a list of mapped files, or one that was cut off before it."""
    whole = fake_core.core(fake_core.note(fake_core.NT_PRPSINFO, fake_core.prpsinfo(42, b"engine", b"engine")))
    path.write_bytes(whole[:-4200] if cut else whole)
    return core_ref(str(path))


def test_shm_of_a_core_without_a_list_of_mapped_files_is_truncated(own: Path, tmp_path: Path) -> None:
    """The kernel leaves it out beyond 4 MiB: that nothing was mapped is not known."""
    collected = collect(Shm(), context(manual(core=without_list(tmp_path / "core"))))
    assert "the core has no list of mapped files" in collected.missing
    collected = collect(Shm(), context(manual(core=without_list(tmp_path / "core", cut=True))))
    assert "cut off before its list of mapped files" in collected.missing
    entries = fake_core.nt_file([(0x1000, 0x2000, 0, os.fsencode(own / "a"))] * 3)
    (tmp_path / "core").write_bytes(fake_core.core(fake_core.note(fake_core.NT_FILE, entries[:-20])))
    assert "can be read" in collect(Shm(), context(manual(core=core_ref(str(tmp_path / "core"))))).missing


def test_shm_of_a_core_without_a_list_asks_the_process_while_it_lives(own: Path, tmp_path: Path) -> None:
    """The core is not the only source."""
    name = segment(own / "mine", b"evidence")
    with holder(own / "mine") as pid:
        collected = collect(Shm(), context(manual(pid, core=without_list(tmp_path / "core"))))
    assert chosen(collected) == {name: b"evidence"}
    assert collected.missing == ""


def test_shm_of_a_core_that_is_gone_or_none_is_truncated(tmp_path: Path) -> None:
    """Deleted, moved, or no core at all."""
    core = core_of(tmp_path / "core", b"/dev/shm/x")
    (tmp_path / "core").write_bytes(b"no core, but the same inode")
    assert "is not known: " in collect(Shm(), context(manual(core=core))).missing
    (tmp_path / "core").unlink()
    assert "is gone" in collect(Shm(), context(manual(core=core))).missing


def test_shm_of_a_killed_process_without_a_core_is_truncated() -> None:
    """Dead, or a zombie, whose maps are empty: what it had mapped can no longer be learnt."""
    with subprocess.Popen(["/bin/sleep", "600"]) as child:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        zombie = collect(Shm(), context(manual(child.pid)))
    gone = collect(Shm(), context(manual(child.pid)))
    for collected in (zombie, gone):
        assert f"is not known: process {child.pid}: " in collected.missing
    nameless = msgspec.structs.replace(manual(), kind=MarkerKind.KERNEL_LOG, comm="engine")
    assert "the marker names no process" in collect(Shm(), context(nameless)).missing


def test_shm_of_a_run_by_hand_without_a_pid_is_not_applicable(own: Path) -> None:
    """There is no crashed process; a segment that is named counts all the same."""
    collected = collect(Shm())
    assert (collected.not_applicable, collected.missing) == ("nobody was named: --pid PID names a process", "")
    assert "inventory.jsonl" in collected
    segment(own / "a")
    named = collect(shm(segments=(f"{own.name}/*",)))
    assert (named.not_applicable, named.missing) == ("", "")
    assert collect(shm(from_=From.NONE)).not_applicable == ""


def test_shm_segments_that_are_named_and_not_there_are_missing(own: Path, tmp_path: Path) -> None:
    """By a glob or by the core; what is excluded was not asked for."""
    segment(own / "a")
    collected = collect(shm(segments=(f"{own.name}/*", f"{own.name}/a", f"{own.name}/b*")))
    assert collected.missing == f"no segment matches {own.name}/b*"
    core = core_of(tmp_path / "core", os.fsencode(own / "a"), os.fsencode(own / "gone"))
    assert collect(Shm(), context(manual(core=core))).missing == f"no longer there: {own.name}/gone"
    assert collect(shm(exclude=("gone",)), context(manual(core=core))).missing == ""


@pytest.mark.root
def test_shm_records_who_owns_a_segment_and_how_many_names_it_has(own: Path) -> None:
    """/dev/shm is world-writable: hard links and other users' files can be recognised."""
    name = segment(own / "theirs")
    os.chown(own / "theirs", NOBODY, NOBODY)
    os.link(own / "theirs", own / "second")
    collected = collect(shm(segments=(name,)))
    row = next(row for row in collected.rows("inventory.jsonl") if row["name"] == name)
    source = collected.artifacts["segments/0001"].artifact.source
    assert (row["uid"], row["links"]) == (NOBODY, 2)
    assert source is not None
    assert (source.uid, source.gid, source.path) == (NOBODY, NOBODY, f"/dev/shm/{name}")


@pytest.mark.parametrize(
    "name", [b"a\nb", b"\x1b[2J", b"\xff\xfe", b"...", b"-rf", b"%s%n", b"<script>", b"a (deleted)"]
)
def test_shm_names_form_no_path(own: Path, name: bytes) -> None:
    """Artifacts are numbered; the name is data, escaped."""
    (own / os.fsdecode(name)).write_bytes(b"evidence")
    collected = collect(shm(segments=(f"{own.name}/*",)))
    assert collected["segments/0001"] == b"evidence"
    (row,) = collected.rows("segments.jsonl")
    assert row["name"].isprintable()


def test_shm_considers_a_bounded_number_of_segments(own: Path) -> None:
    """Anybody can create a million of them."""
    for number in range(20):
        segment(own / str(number), b"x")
    collected = collect(shm(segments=(f"{own.name}/*",), max_segments=5))
    assert len(chosen(collected)) == 5
    cut = collected.artifacts["segments.jsonl"].cut
    assert cut == f"15 of the wanted segments are beyond max_total or max_segments ({OWNER}: 15)"


def test_shm_of_a_core_with_too_many_segments_says_so(own: Path, tmp_path: Path) -> None:
    """The number is bounded; those before the bound are copied."""
    name = segment(own / "a", b"evidence")
    core = core_of(
        tmp_path / "core", os.fsencode(own / "a"), *(b"/dev/shm/%d" % number for number in range(MAX_OWN + 9))
    )
    collected = collect(shm(max_segments=10), context(manual(core=core)))
    assert chosen(collected) == {name: b"evidence"}
    assert "more than 4096 segments" in collected.rows("unread.jsonl")[0]["meaning"]


def test_shm_without_the_core_still_has_the_rest(own: Path, tmp_path: Path) -> None:
    """If the core was replaced, only its own segments are missing, not those of the globs."""
    name = segment(own / "a", b"evidence")
    core = core_of(tmp_path / "core", os.fsencode(own / "other"))
    (tmp_path / "core").unlink()
    collected = collect(shm(segments=(f"{own.name}/*",)), context(manual(core=core)))
    assert chosen(collected) == {name: b"evidence"}
    assert "is gone" in collected.rows("unread.jsonl")[0]["meaning"]


@pytest.mark.root
@pytest.mark.needs("/dev/fuse")
def test_shm_is_not_held_by_a_process_that_holds_its_own_lock(own: Path, tmp_path: Path) -> None:
    """Its maps cannot be read: that is reported, and the globs' segments are there."""
    name = segment(own / "a", b"evidence")
    (tmp_path / "fuse").mkdir()
    with mounted(tmp_path / "fuse") as mountpoint, wedged_process(mountpoint) as pid:
        collected = collect(shm(segments=(f"{own.name}/*",), read_timeout=0.1), context(manual(pid)))
    assert chosen(collected) == {name: b"evidence"}
    assert [row["path"] for row in collected.rows("unread.jsonl")] == [f"/proc/{pid}/maps"]


@pytest.mark.root
def test_shm_takes_no_file_of_a_file_system_that_a_process_mounted_over_its_dev_shm(own: Path, tmp_path: Path) -> None:
    """In another mount namespace, /dev/shm may be anything: only tmpfs files are read through a mapping."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x").write_bytes(b"not a segment" * 1000)
    script = f"mount --bind {tmp_path}/disk /dev/shm && exec {sys.executable} -c '{HOLD}' /dev/shm/x"
    argv = ["unshare", "-m", "/bin/sh", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        collected = collect(Shm(), context(manual(child.pid)))
        child.stdin.close()
    (row,) = collected.rows("segments.jsonl")
    assert row["name"] == "x"
    assert "not shared memory" in row["not_taken"]
    assert collected.missing == "they could not be opened: x"


def test_shm_leaves_no_descriptor_open(own: Path) -> None:
    """Even with segments that could not be copied."""
    segment(own / "a")
    before = os.listdir("/proc/self/fd")
    with holder(own / "a") as pid:
        collect(Shm(), context(manual(pid)))
    assert os.listdir("/proc/self/fd") == before


def test_shm_reading_adds_no_memory(own: Path) -> None:
    """Planning looks at sizes and extents only: a sparse segment stays as small as it was."""
    with (own / "sparse").open("wb") as file:
        file.truncate(8 << 30)
    before = (own / "sparse").stat().st_blocks
    collect_plan(shm(segments=(f"{own.name}/*",), max_each=4096))
    assert (own / "sparse").stat().st_blocks == before == 0
