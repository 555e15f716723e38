from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import lzma
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fake_core
import lz4.frame
import msgspec
import pytest
from collecting import Collected, collect, context, core_ref, manual, take
from machine import core_pattern, need, sysctl

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.shm.shm import Shm
from collector.host.compression import zstd
from collector.host.corehead import HEAD_BYTES, fingerprint
from collector.host.filehandle import handle_of
from collector.model import text
from collector.model.artifact import Bulk, Method, Truncated
from collector.model.marker import CoreRef, MarkerKind
from collector.model.text import MAX_ROWS_BYTES

SECRET = "hunter2-correct-horse"
ADDRESS = 0x1234
CRASH = f"""
import ctypes, mmap, os, sys, threading, time
held = []
for path in sys.argv[1:]:
    if path.startswith("/"):
        fd = os.open(path, os.O_RDWR)
        held.append(mmap.mmap(fd, 0))
for _ in range(2):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
with open("maps", "wb") as file:
    file.write(open("/proc/self/maps", "rb").read())
ctypes.memset({ADDRESS}, 1, 1)
"""


def crash(directory: Path, *arguments: str) -> tuple[int, Path]:
    """Let a process die of SIGSEGV; return its PID and its core."""
    with core_pattern(f"{directory}/core.%p"):
        child = subprocess.Popen(
            [sys.executable, "-c", CRASH, *arguments],
            cwd=directory,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, -1)),
        )
        assert child.wait() == -11
    return child.pid, directory / f"core.{child.pid}"


def collect_core(path: Path, **fields: object) -> Collected:
    return collect(Core(**fields), context(manual(core=core_ref(str(path)))))  # type: ignore[arg-type]


@pytest.mark.root
def test_core_of_a_real_crash_is_read(tmp_path: Path) -> None:
    """Signal, address, process, threads with registers, mapped files: as the kernel wrote them."""
    segment = Path(f"/dev/shm/collector-test-{os.getpid()}-{time.monotonic_ns()}")
    segment.write_bytes(b"evidence" * 1024)
    try:
        pid, path = crash(tmp_path, str(segment), "--password", SECRET)
        collected = collect_core(path, keep=KeepCore.NONE)
        own = collect(Shm(), context(manual(core=core_ref(str(path)))))
    finally:
        segment.unlink()
    core = collected.document("core.json")
    assert core["signal"] == {
        "number": 11, "name": "SIGSEGV", "code": 1, "code_name": "SEGV_MAPERR", "fault_address": hex(ADDRESS),
    }  # fmt: skip
    assert (core["pid"], core["ppid"], core["uid"], core["threads"]) == (pid, os.getpid(), 0, 3)
    assert (core["command"], core.get("cut_off", False)) == (Path(sys.executable).name[:15], False)
    threads = collected.rows("threads.jsonl")
    assert threads[0]["tid"] == pid
    assert len({thread["tid"] for thread in threads}) == 3
    assert threads[0]["registers"] == core["crashed_thread"]["registers"]
    assert str(segment) in [row["path"] for row in collected.rows("mapped_files.jsonl")]
    assert SECRET.encode() not in collected.everything()
    assert own["segments/0001"] == b"evidence" * 1024


@pytest.mark.root
def test_core_of_a_real_crash_agrees_with_what_the_process_saw(tmp_path: Path) -> None:
    """The mapped files are those of its own /proc/self/maps, address by address."""
    _, path = crash(tmp_path)
    collected = collect_core(path, keep=KeepCore.NONE)
    lines = [line.split() for line in (tmp_path / "maps").read_text().splitlines()]
    seen = {(f"0x{line[0].split('-')[0]}", line[5]) for line in lines if len(line) == 6 and line[5].startswith("/")}
    rows = collected.rows("mapped_files.jsonl")
    assert {(row["start"], row["path"]) for row in rows} == seen
    assert collected.document("core.json")["mapped_files"] == len(rows)


@pytest.mark.root
def test_core_that_the_kernel_cut_off_says_so(tmp_path: Path) -> None:
    """With RLIMIT_CORE or a full disk the notes are there, the memory is not."""
    _, path = crash(tmp_path)
    os.truncate(path, 65_536)
    core = collect_core(path, keep=KeepCore.NONE).document("core.json")
    assert core["cut_off"] is True
    assert core["signal"]["number"] == 11


@pytest.fixture
def core_file(tmp_path: Path) -> Path:
    path = tmp_path / "core.42"
    path.write_bytes(fake_core.core(fake_core.crash(), loads=3))
    return path


@pytest.mark.parametrize(
    ("keep", "instead"),
    [
        ("auto", (Method.REFLINK,)),
        ("link", (Method.REFLINK,)),
        ("copy", ()),
        ("none", None),
    ],
)
def test_core_is_kept_as_configured(core_file: Path, keep: str, instead: tuple[Method, ...] | None) -> None:
    """What the notes say comes first, the core itself last."""
    collected = collect_core(core_file, keep=KeepCore(keep))
    names = ["core.json", "threads.jsonl", "mapped_files.jsonl", "modules.jsonl"]
    assert list(collected.artifacts) == (names if instead is None else [*names, "core"])
    if instead is not None:
        assert ways(collected) == instead
        assert collected["core"] == core_file.read_bytes()


def ways(collected: Collected) -> tuple[Method, ...]:
    """Return how the core may be kept without copying it."""
    body = collected.artifacts["core"].artifact.body
    assert isinstance(body, Bulk)
    return body.instead


@pytest.fixture
def systemds_core(core_file: Path, scratch: Path) -> Path:
    """A core as systemd-coredump leaves it: root's, 0640, with its attributes, where only root may write."""
    need("root")
    directory = scratch / "coredump"
    directory.mkdir(mode=0o755)
    path = directory / "core.engine"
    path.write_bytes(core_file.read_bytes())
    path.chmod(0o640)
    os.setxattr(path, "user.coredump.pid", b"42")
    return path


def test_core_of_systemd_may_be_kept_by_a_link(systemds_core: Path) -> None:
    """Each has a name of its own, and nobody writes to it again."""
    assert ways(collect_core(systemds_core)) == (Method.LINK, Method.REFLINK)


@pytest.mark.parametrize("why", ["owner", "mode", "directory", "attribute", "link", "writer"])
def test_core_that_somebody_may_still_write_to_is_never_kept_by_a_link(systemds_core: Path, why: str) -> None:
    """Its owner, a group, root's own handler, a name elsewhere, or whoever has it open."""
    with contextlib.ExitStack() as stack:
        match why:
            case "owner":
                os.chown(systemds_core, 65_534, -1)
            case "mode":
                systemds_core.chmod(0o660)
            case "directory":
                systemds_core.parent.chmod(0o1777)
            case "attribute":
                os.removexattr(systemds_core, "user.coredump.pid")
            case "link":
                systemds_core.with_name("second").hardlink_to(systemds_core)
            case "writer":
                stack.enter_context(systemds_core.open("ab"))
        assert ways(collect_core(systemds_core)) == (Method.REFLINK,)


def named(path: Path) -> CoreRef:
    """Return a reference that also knows how the core begins, as a trigger makes it."""
    return msgspec.structs.replace(core_ref(str(path)), head=fingerprint(path.read_bytes()[:HEAD_BYTES]))


@pytest.mark.parametrize("known", [True, False])
def test_core_that_another_crash_has_overwritten_is_refused(core_file: Path, known: bool) -> None:
    """Same file, same length, another process: its own event makes its own incident."""
    reference = named(core_file) if known else core_ref(str(core_file))
    with core_file.open("r+b") as file:
        file.write(core_file.read_bytes().replace(b"engine", b"worker"))
    collected = collect(Core(), context(manual(core=reference)))
    assert list(collected.artifacts) == []
    assert "was overwritten" in str(collected.error)


def test_core_that_is_rewritten_while_it_is_read_is_truncated(core_file: Path) -> None:
    """Part of what was kept may be another crash's."""
    steps = Core().collect(context(manual(core=named(core_file))))
    for name in ("core.json", "threads.jsonl", "mapped_files.jsonl", "modules.jsonl", "core"):
        artifact = next(steps)
        take(artifact)
        assert str(artifact.path) == name
    core_file.write_bytes(b"the next crash")
    with pytest.raises(Truncated, match="written to while it was read"):
        next(steps)


def test_core_compressed_as_systemd_does_is_read_and_kept_as_it_is(tmp_path: Path) -> None:
    """With the attributes that systemd-coredump adds."""
    path = tmp_path / "core.engine.zst"
    data = zstd.compress(fake_core.core(fake_core.crash(), loads=100))
    path.write_bytes(data)
    with contextlib.suppress(OSError):
        os.setxattr(path, "user.coredump.hostname", b"db1\x1b[2J")
    collected = collect_core(path)
    core = collected.document("core.json")
    assert (core["pid"], core["command"], core["arguments"]) == (42, "engine", "engine --token [redacted]")
    assert core.get("attributes", {}).get("user.coredump.hostname") in {None, r"db1\x1b[2J"}
    assert collected["core"] == data


@pytest.mark.parametrize("pack", [zstd.compress, lzma.compress, gzip.compress, bz2.compress])
def test_core_that_is_compressed_and_cut_off_says_so(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Whether the compressed file was cut off, or the core before it was compressed."""
    path = tmp_path / "core.packed"
    plain = fake_core.core(fake_core.crash(), loads=100)
    whole = pack(plain)
    for data, cut_off in ((whole, False), (whole[:-5], True), (pack(plain[:-5]), True)):
        path.write_bytes(data)
        collected = collect_core(path)
        core = collected.document("core.json")
        assert (core["signal"]["name"], core["threads"], core["mapped_files"]) == ("SIGSEGV", 2, 2)
        assert core.get("cut_off", False) == cut_off
        assert (len(collected.rows("threads.jsonl")), len(collected.rows("mapped_files.jsonl"))) == (2, 2)
        assert (collected["core"], collected.error) == (data, None)


@pytest.mark.parametrize("data", [b"", b"not a core at all", b"\x04\x22\x4d\x18rest", fake_core.core(b"")[:100]])
def test_core_that_cannot_be_parsed_is_kept(tmp_path: Path, data: bytes) -> None:
    """The step fails with the reason, but the file is evidence."""
    path = tmp_path / "core"
    path.write_bytes(data)
    collected = collect_core(path)
    assert collected["core"] == data
    assert collected.document("core.json")["problem"]
    assert collected.error is not None


def test_core_names_are_data(tmp_path: Path) -> None:
    """A command, arguments and mapped files made of control characters and markup."""
    notes = b"".join(
        fake_core.note(kind, desc)
        for kind, desc in (
            (fake_core.NT_PRSTATUS, fake_core.prstatus(42, 11, tuple(range(27)))),
            (fake_core.NT_PRPSINFO, fake_core.prpsinfo(42, b"\x1b[2Ja\nb\xff", b"<script>\r\n%s %n")),
            (fake_core.NT_FILE, fake_core.nt_file([(1, 2, 0, b"/dev/shm/\x1b[2J\n\xff"), (1, 2, 0, b"")])),
        )
    )
    path = tmp_path / "core"
    path.write_bytes(fake_core.core(notes))
    collected = collect_core(path)
    core = collected.document("core.json")
    assert core["command"] == r"\x1b[2Ja\x0ab\xff"
    assert core["arguments"] == r"<script>\x0d\x0a%s %n"
    assert [row["path"] for row in collected.rows("mapped_files.jsonl")] == [r"/dev/shm/\x1b[2J\x0a\xff", ""]


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo", "nothing"])
def test_core_that_was_replaced_is_refused(core_file: Path, tmp_path: Path, kind: str) -> None:
    """The marker's inode counts, not its name: a planted file, a symlink or a FIFO is not read."""
    reference = core_ref(str(core_file))
    other = tmp_path / "elsewhere"
    other.mkdir()
    core_file.rename(other / "moved")
    if kind == "file":
        core_file.write_bytes(b"planted")
    elif kind == "symlink":
        core_file.symlink_to(other / "moved")
    elif kind == "fifo":
        os.mkfifo(core_file)
    collected = collect(Core(), context(manual(core=reference)))
    assert list(collected.artifacts) == []
    assert "is gone" in str(collected.error)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".zst", zstd.compress), (".xz", lzma.compress), (".gz", gzip.compress), (".bz2", bz2.compress)],
)
def test_core_that_was_compressed_is_found(
    core_file: Path, suffix: str, pack: Callable[[bytes], bytes], known: bool
) -> None:
    """By what it unpacks to, or else by its time, to the nanosecond or in whole seconds."""
    reference = named(core_file) if known else core_ref(str(core_file))
    packed = core_file.with_name(core_file.name + suffix)
    packed.write_bytes(pack(core_file.read_bytes()))
    core_file.unlink()
    for mtime_ns in (reference.mtime_ns, reference.mtime_ns // 10**9 * 10**9):
        os.utime(packed, ns=(mtime_ns, mtime_ns))
        collected = collect(Core(), context(manual(core=reference)))
        assert collected.document("core.json")["pid"] == 42
        assert collected.document("core.json")["path"] == str(packed)
        assert collected["core"] == packed.read_bytes()
    os.utime(packed, (1, 1))
    assert ("core" in collect(Core(), context(manual(core=reference)))) == known


@pytest.mark.root
@pytest.mark.parametrize("why", ["content", "owner", "name"])
def test_core_that_only_looks_compressed_is_not_taken(core_file: Path, why: str) -> None:
    """Another crash's, another user's, or another name's: the step fails."""
    reference = named(core_file)
    packed = core_file.with_name("core.43.gz" if why == "name" else "core.42.gz")
    data = core_file.read_bytes()
    packed.write_bytes(gzip.compress(data.replace(b"engine", b"worker") if why == "content" else data))
    if why == "owner":
        os.chown(packed, 65_534, -1)
    core_file.unlink()
    assert "is gone" in str(collect(Core(), context(manual(core=reference))).error)


@pytest.mark.parametrize("name", ["core.42", "renamed", "core.42.gz"])
def test_core_is_found_in_another_directory_of_its_trigger(core_file: Path, tmp_path: Path, name: str) -> None:
    """Moved to another file system, where it is another inode with the same time, or compressed on the way."""
    other = tmp_path / "other"
    other.mkdir()
    head = fake_core.core(b"")[:8]
    reference = msgspec.structs.replace(named(core_file), watched=(str(tmp_path / "gone"), str(other)))
    data = core_file.read_bytes()
    (other / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    os.utime(other / name, ns=(reference.mtime_ns, reference.mtime_ns))
    (other / "core.42.xz").write_bytes(head)
    core_file.unlink()
    collected = collect(Core(), context(manual(core=reference)))
    assert (collected.document("core.json")["pid"], collected.error) == (42, None)
    assert collected.document("core.json")["path"] == str(other / name)


@pytest.mark.root
def test_core_is_found_wherever_it_was_moved(core_file: Path, tmp_path: Path) -> None:
    """By its handle, also if its directory is gone."""
    directory = tmp_path / "inner"
    directory.mkdir()
    fd = os.open(core_file.rename(directory / "core"), os.O_RDONLY)
    reference = msgspec.structs.replace(core_ref(str(directory / "core")), handle=handle_of(fd))
    os.close(fd)
    (tmp_path / "a/b").mkdir(parents=True)
    (directory / "core").rename(tmp_path / "a/b/moved")
    directory.rmdir()
    collected = collect(Core(), context(manual(core=reference)))
    assert (collected.document("core.json")["pid"], collected.error) == (42, None)
    assert collected.document("core.json")["path"] == str(tmp_path / "a/b/moved")


def test_core_is_found_although_its_name_was_escaped_or_changed(core_file: Path, tmp_path: Path) -> None:
    """core_pattern may put the command's name into the file's name, which is escaped where it is not printable."""
    core_file.rename(tmp_path / "core.a\nb\udcff")
    collected = collect(Core(keep=KeepCore.NONE), context(manual(core=core_ref(str(tmp_path / "core.a\nb\udcff")))))
    assert collected.document("core.json")["pid"] == 42
    reference = core_ref(str(tmp_path / "core.a\nb\udcff"))
    escaped = msgspec.structs.replace(reference, path=str(tmp_path / r"core.a\x0ab\xff"))
    assert collect(Core(keep=KeepCore.NONE), context(manual(core=escaped))).document("core.json")["pid"] == 42


def test_core_without_a_core_file_is_not_a_failure() -> None:
    """A manual run has no core; the step says so and succeeds."""
    collected = collect(Core())
    assert collected.document("core.json")["problem"] == "the marker has no core file"
    assert collected.error is None
    assert collected.not_applicable == "the marker has no core file"


@pytest.mark.parametrize(
    ("signal", "attributes", "missing"),
    [(9, {"core_dumped": "no"}, False), (15, {}, False), (11, {"core_dumped": "no"}, True),
     (11, {"core_dumped": "no", "core_limit": "0"}, False), (11, {}, True),
     (None, {}, False), (11, {"core_dumped": "yes"}, True), (None, {"core_dumped": "pending"}, True),
     (None, {"event": "core_lost"}, True), (11, {"core_dumped": "no", "event": "core_lost"}, True)],
)  # fmt: skip
def test_core_that_should_be_there_is_missing(signal: int | None, attributes: dict[str, str], missing: bool) -> None:
    """
    SIGKILL dumps none by nature, and nothing does where the limit is 0: that is no alarm for each crash of a service. A
    core that was dumped, that the kernel gave up, or of which nobody knows why there is none, is missing.
    """
    marker = msgspec.structs.replace(manual(1), kind=MarkerKind.EXIT, signal=signal, attributes=attributes)
    collected = collect(Core(), context(marker))
    assert (bool(collected.missing), bool(collected.not_applicable)) == (missing, not missing)


def test_core_that_was_cut_off_is_truncated(core_file: Path) -> None:
    """By RLIMIT_CORE or a full disk: part of the memory is missing."""
    assert collect_core(core_file).missing == ""
    core_file.write_bytes(core_file.read_bytes()[:-100])
    assert "cut off" in collect_core(core_file).missing


def test_core_leaves_no_descriptor_open(core_file: Path) -> None:
    """For every kind of `keep`."""
    before = os.listdir("/proc/self/fd")
    for keep in KeepCore:
        collect_core(core_file, keep=keep)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.root
def test_core_is_kept_though_its_owner_holds_a_lease_on_it(core_file: Path) -> None:
    """A core's owner must not keep it out of the archive: opening it breaks the owner's lease, which takes 45 s."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, core_file], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with sysctl("fs/lease-break-time", 1):
            collected = collect_core(core_file)
    finally:
        holder.kill()
        holder.wait()
    assert collected.error is None
    assert "core" in collected.artifacts


HOLDER = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.root
def test_core_that_may_not_be_opened_is_not_called_gone(core_file: Path) -> None:
    """Without privileges: it exists, and the step says that it may not be opened."""
    core_file.chmod(0o600)
    for parent in core_file.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    reference = core_ref(str(core_file))
    os.seteuid(65_534)
    try:
        collected = collect(Core(), context(manual(core=reference)))
    finally:
        os.seteuid(0)
    assert "cannot be opened: Permission denied" in str(collected.error)


def apport_report(core: bytes) -> bytes:
    """Return a report around a core, as Apport writes it."""
    packed = base64.b64encode(gzip.compress(core))
    return b"ProblemType: Crash\nProcStatus:\n Name:\tengine\n Pid:\t4000077\nCoreDump: base64\n " + packed + b"\n"


def bomb(count: int) -> bytes:
    """Return a core of as many threads, and four times as many mapped files, which compress to next to nothing."""
    thread = fake_core.note(fake_core.NT_PRSTATUS, fake_core.prstatus(42, 11, (2**64 - 1,) * 27))
    mapping = struct.pack("<QQQ", 2**64 - 1, 2**64 - 1, 2**51)
    names = struct.pack("<QQ", 4 * count, 4096) + 4 * count * mapping + 4 * count * (b"\xff" * 18 + b"\0")
    return fake_core.core(fake_core.note(fake_core.NT_FILE, names) + thread * count)


def test_core_of_four_kilobytes_does_not_become_rows_without_end(tmp_path: Path) -> None:
    """24,000 threads and 96,000 mapped files: of each, 16 MiB are written, and it says so."""
    (tmp_path / "core").write_bytes(zstd.compress(bomb(24_000)))
    assert (tmp_path / "core").stat().st_size < 4096
    collected = collect_core(tmp_path / "core", keep="none")
    for name in ("threads.jsonl", "mapped_files.jsonl"):
        assert len(collected[name]) <= MAX_ROWS_BYTES
        assert "all of them exceed 16 MiB" in str(collected.artifacts[name].cut)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bz2.compress, lz4.frame.compress, apport_report])
def test_core_that_is_packed_in_any_way_has_bounded_rows(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is on what is written, wherever it comes from; the last row is whole."""
    monkeypatch.setattr(text, "MAX_ROWS_BYTES", 1 << 20)
    (tmp_path / "core").write_bytes(pack(bomb(2000)))
    collected = collect_core(tmp_path / "core", keep="none")
    for name in ("threads.jsonl", "mapped_files.jsonl"):
        assert (1 << 20) - 1000 < len(collected[name]) <= 1 << 20
        assert "all of them exceed 1 MiB" in str(collected.artifacts[name].cut)
        assert collected.rows(name)


def test_core_with_a_name_of_megabytes_has_a_path_at_most_as_long_as_the_kernels(tmp_path: Path) -> None:
    """Escaped, four MiB of what is not printable would become twenty, in memory and in the row."""
    long = struct.pack("<QQQQQ", 1, 4096, 0x1000, 0x2000, 0) + b"\xff" * ((4 << 20) - 64) + b"\0"
    (tmp_path / "core").write_bytes(zstd.compress(fake_core.core(fake_core.note(fake_core.NT_FILE, long))))
    (row,) = collect_core(tmp_path / "core", keep="none").rows("mapped_files.jsonl")
    assert row["path"] == "\\xff" * 4096
