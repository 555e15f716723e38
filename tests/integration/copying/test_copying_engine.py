from __future__ import annotations

import contextlib
import errno
import mmap
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import xxhash
from copying_fixtures import (
    BOUNCE,
    FAST,
    MIB,
    MMAP,
    SPLICE,
    Destination,
    blocks_bytes,
    cached,
    copied,
    memory_kib,
    mounted,
    opened_directory,
    run,
    same,
    scattered,
    segment,
)

from collector.copying import engine, open_source
from collector.copying.buffers import Buffer, lease
from collector.copying.plan import Chunk, Extent
from collector.copying.rate.flush_batch import ALONE_S, SHARED_S
from collector.copying.rate.limiter import Limiter
from collector.copying.rate.throttle import Throttle, controller_for, limiter_for
from collector.copying.source import Source, SourceReader
from collector.copying.zero_copy import WINDOW_BYTES, MappedWindows
from collector.host.files import describe
from collector.model.artifact import Method
from collector.model.copying import Advice, CopySettings, Digest, Feedback, MethodChoice
from collector.model.errors import CopyError, StepError

METHODS = pytest.mark.parametrize("settings", [SPLICE, MMAP, BOUNCE], ids=["splice", "mmap", "bounce"])


@METHODS
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, MIB, 5 * MIB + 123])
def test_copy_is_identical_for_every_length(target: Destination, settings: CopySettings, size: int) -> None:
    """Whatever the tail, the copy has the source's bytes and length."""
    with segment(size) as source:
        report = copied(source, target, settings=settings)
        assert same(source, target.path / "copy")
    assert (report.size_bytes, report.data_bytes, report.truncated) == (size, size, False)
    assert target.names() == ["copy"]


@METHODS
def test_copy_leaves_no_page_in_the_cache(target: Destination, settings: CopySettings) -> None:
    """Not one page of the destination stays in memory."""
    with segment(64 * MIB + 5) as source:
        report = copied(source, target, settings=settings)
    found = cached(target.path / "copy")
    assert report.direct
    assert (found.cached, found.dirty, found.writeback) == (0, 0, 0)


@METHODS
def test_copy_adds_no_shmem_when_the_segment_is_sparse(target: Destination, settings: CopySettings) -> None:
    """Holes are never faulted in: a sparse segment must not use up the memory that is left."""
    pieces = scattered(64 << 30, 1000, 64 << 10)
    with segment(64 << 30, pieces=pieces) as source:
        before = blocks_bytes(source)
        report = copied(source, target, settings=settings)
        assert blocks_bytes(source) == before
        target_path = target.path / "copy"
        assert target_path.stat().st_size == 64 << 30
        assert report.extents == 1000
        assert report.data_bytes == 1000 * (64 << 10)
        assert blocks_bytes(target_path) <= report.data_bytes + report.extents * 4096
        with target_path.open("rb") as file:
            for offset, data in pieces:
                assert os.pread(file.fileno(), len(data), offset) == data
                assert not any(os.pread(file.fileno(), 4096, offset + len(data)))


def test_copy_takes_allocated_but_unwritten_ranges_for_holes(target: Destination) -> None:
    """What was only fallocated is neither read nor given blocks in the copy."""
    with segment(64 * MIB, pieces=[(32 * MIB, b"x" * 4096)]) as source:
        with source.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, 64 * MIB)
        report = copied(source, target, settings=MMAP)
        assert same(source, target.path / "copy")
    assert report.data_bytes == 4096


def test_copy_keeps_the_mode_private_whatever_the_umask(target: Destination) -> None:
    """An artifact is its owner's alone, whatever the umask of the process."""
    with segment(4096) as source:
        before = os.umask(0o777)
        try:
            copied(source, target)
        finally:
            os.umask(before)
    assert (target.path / "copy").stat().st_mode & 0o7777 == 0o600


def test_copy_never_writes_what_lies_beyond_the_end_of_the_file(small_disk: Path, scratch: Path) -> None:
    """Stores beyond the end of a mapped file stay in its last page; they must not reach the disk."""
    stray = b"stray secret of another process " * 8
    with segment(2 * MIB + 100) as source, source.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        # The last page is mapped as a whole; a view of it ends at the end of the file, the memory does not.
        import ctypes

        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        ctypes.memmove(address + 2 * MIB + 100, stray, len(stray))
        with opened_directory(small_disk) as disk:
            copied(source, disk, settings=MMAP)
            os.fsync(disk.fd)
        image = next(scratch.glob("*.img"))
        run("sync", "-f", small_disk)
        assert subprocess.run(["grep", "-qa", "stray secret", image], check=False).returncode == 1


def test_copy_reads_a_part_when_told_an_offset_and_a_limit(target: Destination) -> None:
    """A range is copied to the start of the file and marked as incomplete."""
    with segment(8 * MIB) as source:
        data = source.read_bytes()
        report = copied(source, target, offset=MIB, limit_bytes=3 * MIB + 7)
    assert (target.path / "copy").read_bytes() == data[MIB : 4 * MIB + 7]
    assert report.truncated
    assert report.truncated_reason == f"limited to {3 * MIB + 7} bytes"


@pytest.mark.parametrize("algorithm", [Digest.XXH3_128, Digest.SHA256])
def test_copy_digests_what_standard_tools_digest(target: Destination, algorithm: Digest) -> None:
    """The digest is of the whole content, holes included, so that standard tools can check it."""
    with segment(40 * MIB + 3, pieces=scattered(40 * MIB, 10, 8192)) as source:
        report = copied(source, target, settings=CopySettings(rate="max", digest=algorithm))
        data = source.read_bytes()
    assert report.method is Method.BOUNCE
    expected = (
        run("sha256sum", target.path / "copy").split()[0]
        if algorithm is Digest.SHA256
        else xxhash.xxh3_128_hexdigest(data)
    )
    assert report.digest == f"{algorithm}:{expected}"


@pytest.mark.root
@pytest.mark.parametrize("huge", ["always", "never"])
def test_copy_maps_a_segment_when_it_lies_on_huge_pages(target: Destination, scratch: Path, huge: str) -> None:
    """There a mapping takes the least CPU, elsewhere twice that of splice."""
    point = scratch / "huge"
    point.mkdir()
    with (
        mounted("none", point, "tmpfs", f"huge={huge},size=64m"),
        segment(17 * MIB + 9, directory=str(point)) as source,
    ):
        report = copied(source, target)
        assert same(source, target.path / "copy")
    assert report.method is (Method.MMAP if huge == "always" else Method.SPLICE)


def test_copy_of_a_file_on_disk_is_read_past_the_cache(target: Destination) -> None:
    """Reading a core file must not bring it into memory."""
    source = target.path / "core"
    data = os.urandom(9 * MIB + 77)
    source.write_bytes(data)
    with source.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    report = copied(source, target, settings=MMAP)
    assert report.method is Method.BOUNCE
    assert "read past the page cache" in report.method_reason
    assert cached(source).cached == 0
    assert (target.path / "copy").read_bytes() == data


def test_copy_stops_where_the_gate_says_so(target: Destination) -> None:
    """STOP leaves a file without gaps, marked truncated with the gate's reason."""
    copied_bytes = [0]

    def ask() -> Feedback:
        return Feedback(Advice.STOP, "memory is short") if copied_bytes[0] else Feedback(Advice.GO)

    def progress(done: int) -> None:
        copied_bytes[0] = done

    with segment(256 * MIB) as source:
        settings = CopySettings(rate=100 * MIB, writers=4)
        report = copied(source, target, settings=settings, ask=ask, progress=progress)
        kept = (target.path / "copy").read_bytes()
        with source.open("rb") as file:
            assert kept == file.read(len(kept))
    assert report.truncated
    assert report.truncated_reason == "memory is short"
    assert 0 < len(kept) == report.size_bytes == report.data_bytes < 256 * MIB


def test_copy_pauses_until_the_gate_opens(target: Destination) -> None:
    """PAUSE waits and asks again; the report says how often and why."""
    short = Feedback(Advice.PAUSE, "memory is short")
    answers = iter([short, short, Feedback(Advice.SLOW, "memory is nearly short")])
    with segment(4 * MIB) as source:
        report = copied(source, target, ask=lambda: next(answers, Feedback(Advice.GO)))
        assert same(source, target.path / "copy")
    assert (report.pauses, report.slow_downs) == (1, 1)
    assert report.gate_reason == "pause: memory is short; slow: memory is nearly short"


def test_copy_raises_what_the_callback_raises_and_leaves_nothing(target: Destination) -> None:
    """An exception of the callback is the caller's; no half-written file stays."""

    def ask() -> Feedback:
        raise ZeroDivisionError

    with segment(4 * MIB) as source, pytest.raises(ZeroDivisionError):
        copied(source, target, ask=ask)
    assert target.names() == []


@METHODS
def test_copy_says_that_the_source_shrank(target: Destination, settings: CopySettings) -> None:
    """A segment is truncated meanwhile: what was read is kept and marked truncated, without SIGBUS."""
    settings = CopySettings(rate=200 * MIB, method=settings.method)
    with segment(64 * MIB) as source:

        def progress(done: int) -> None:
            if done == 8 * MIB:
                os.truncate(source, 20 * MIB + 10)

        data = source.read_bytes()
        report = copied(source, target, settings=settings, progress=progress)
    assert report.truncated
    assert report.changed
    assert "shrank" in str(report.truncated_reason)
    assert (target.path / "copy").read_bytes() == data[: 20 * MIB + 10]


def test_copy_says_that_the_source_grew(target: Destination) -> None:
    """What is appended meanwhile is not copied, and the report says that the source changed."""
    with segment(8 * MIB) as source:
        data = source.read_bytes()

        def progress(done: int) -> None:
            os.truncate(source, 16 * MIB)

        report = copied(source, target, progress=progress)
    assert (target.path / "copy").read_bytes() == data
    assert report.changed
    assert not report.truncated


def test_copy_refills_no_hole_that_is_punched_meanwhile(target: Destination) -> None:
    """Pages freed between plan and write are not allocated again by mapping them."""
    with segment(64 * MIB) as source:

        def progress(done: int) -> None:
            if done == 8 * MIB:
                run("fallocate", "--punch-hole", "--offset", 32 * MIB, "--length", 32 * MIB, source)

        report = copied(
            source, target, settings=CopySettings(rate=400 * MIB, method=MethodChoice.MMAP), progress=progress
        )
        assert blocks_bytes(source) == 32 * MIB
        assert same(source, target.path / "copy")
    assert report.notes


def test_copy_of_a_segment_under_live_writers_has_the_digest_of_its_bytes_on_disk(target: Destination) -> None:
    """Bounce digests exactly the bytes that it writes, however much the source changes."""
    stop = threading.Event()
    with segment(32 * MIB) as source:
        writer = subprocess.Popen(["python3", "-c", SCRIBBLER, source])
        try:
            for number in range(5):
                settings = CopySettings(rate="max", digest=Digest.XXH3_128, writers=4)
                report = copied(source, target, f"copy{number}", settings)
                data = (target.path / f"copy{number}").read_bytes()
                assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"
        finally:
            stop.set()
            writer.kill()
            writer.wait()


SCRIBBLER = """
import mmap, os, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
    n = 0
    while True:
        n += 1
        mapping[(n * 40961) % len(mapping)] = n & 255
"""


def test_copy_reads_a_memfd_and_an_unlinked_file_of_another_process(target: Destination) -> None:
    """A file without a name is reached through a process that has it open."""
    holder = subprocess.Popen(["python3", "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        numbers = [int(word) for word in holder.stdout.readline().split()]
        for number in numbers:
            fd = open_source.open_source(f"/proc/{holder.pid}/fd/{number}")
            try:
                report = engine.copy(fd, directory_fd=target.fd, name=f"fd{number}", settings=FAST)
            finally:
                os.close(fd)
            assert report.method is Method.SPLICE
            assert (target.path / f"fd{number}").read_bytes() == b"kept" * 2500
    finally:
        holder.kill()
        holder.wait()


HOLDER = """
import os, tempfile, time
a = os.memfd_create("m")
b = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
for fd in (a, b):
    os.write(fd, b"kept" * 2500)
print(a, b, flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def planted(kind: str, directory: Path) -> Iterator[Path]:
    path = directory / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to("/etc/hostname")
    else:
        path.mkdir()
    yield path


@pytest.mark.parametrize("kind", ["fifo", "symlink", "directory"])
def test_source_is_refused_when_it_is_not_a_regular_file(scratch: Path, kind: str) -> None:
    """A FIFO must not block, and a link must not be followed."""
    with planted(kind, scratch) as path, pytest.raises((StepError, OSError)):
        open_source.open_source(str(path))


def test_source_is_refused_when_the_descriptor_is_a_pipe() -> None:
    """A descriptor's link is followed only to a regular file: opening a FIFO or a device has side effects."""
    read, write = os.pipe()
    try:
        with pytest.raises(StepError, match="FIFO"):
            open_source.open_source(f"/proc/self/fd/{read}")
    finally:
        os.close(read)
        os.close(write)


def test_source_is_described_with_owner_mode_mtime_and_attributes(scratch: Path) -> None:
    """The copy belongs to root; the record says whose the source was."""
    path = scratch / "file"
    path.write_bytes(b"x")
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"a\nb")
    fd = open_source.open_source(str(path))
    try:
        info = describe(fd, str(path), xattrs="")
    finally:
        os.close(fd)
    assert (info.uid, info.mode) == (os.geteuid(), 0o640)
    assert info.mtime_ns == path.stat().st_mtime_ns
    assert info.xattrs == {"user.note": "a\\x0ab"}


def test_copy_refuses_a_destination_in_memory() -> None:
    """A copy from tmpfs to tmpfs doubles the memory used; it is refused before the first byte."""
    with segment(4096) as source, opened_directory(Path("/dev/shm")) as shm, pytest.raises(CopyError) as raised:
        copied(source, shm, f"{source.name}.copy")
    assert raised.value.errno == errno.EOPNOTSUPP
    assert raised.value.hint


@pytest.mark.parametrize("planted_name", ["copy", "copy.part"])
@pytest.mark.parametrize("as_link", [True, False])
def test_copy_does_not_touch_existing_files_of_its_names(target: Destination, planted_name: str, as_link: bool) -> None:
    """A file or symlink planted at an output name is neither written through nor replaced."""
    victim = target.path / "victim"
    victim.write_bytes(b"precious")
    if as_link:
        (target.path / planted_name).symlink_to(victim)
    else:
        os.link(victim, target.path / planted_name)
    with segment(8192) as source, pytest.raises(CopyError) as raised:
        copied(source, target)
    assert raised.value.errno == errno.EEXIST
    assert victim.read_bytes() == b"precious"
    assert target.names() == sorted(["victim", planted_name])


def test_copy_does_not_replace_a_file_that_appears_meanwhile(target: Destination) -> None:
    """The last step is a rename that never replaces."""

    def progress(done: int) -> None:
        (target.path / "copy").write_bytes(b"mine")

    with segment(8192) as source, pytest.raises(CopyError) as raised:
        copied(source, target, progress=progress)
    assert raised.value.errno == errno.EEXIST
    assert (target.path / "copy").read_bytes() == b"mine"
    assert target.names() == ["copy"]


def test_copy_uses_the_same_memory_for_every_size(target: Destination) -> None:
    """Buffers are lent, not allocated: private memory does not grow with the file."""
    with segment(4 * MIB) as small, segment(128 * MIB) as large:
        copied(small, target, "warm", MMAP)
        before = memory_kib("RssAnon")
        copied(large, target, "large", MMAP)
        copied(large, target, "larger", BOUNCE)
        assert memory_kib("RssAnon") - before < 1024


@METHODS
def test_copy_merges_across_holes_of_one_page_without_filling_them(target: Destination, settings: CopySettings) -> None:
    """A page of data after each page of hole is one write per chunk, and adds not one page of memory."""
    with segment(16 * MIB, pieces=[(at, b"x" * 4096) for at in range(0, 16 * MIB, 8192)]) as source:
        before = blocks_bytes(source)
        report = copied(source, target, settings=settings)
        assert blocks_bytes(source) == before == 8 * MIB
        assert same(source, target.path / "copy")
    assert report.extents == 1
    assert report.data_bytes <= 2 * before


@METHODS
def test_copy_writes_chunks_in_few_requests(small_disk: Path, settings: CopySettings) -> None:
    """A chunk longer than the longest pipe must not be split into pieces of 64 KiB."""
    settings = msgspec.structs.replace(settings, chunk_bytes=2 * MIB)
    with segment(32 * MIB) as source, opened_directory(small_disk) as target:
        before = writes_to(small_disk)
        copied(source, target, settings=settings)
        assert writes_to(small_disk) - before <= 4 * 32


def writes_to(directory: Path) -> int:
    """Return the write requests that the disk of *directory* has completed."""
    return int((disk_of(directory) / "stat").read_text().split()[4])


def disk_of(directory: Path) -> Path:
    """Return the folder in sysfs of the disk that *directory* is on."""
    device = directory.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")


@pytest.mark.parametrize("rate", ["adaptive", 10**10])
@METHODS
def test_copy_leaves_little_in_the_disks_own_cache(small_disk: Path, settings: CopySettings, rate: str | int) -> None:
    """Another process's fsync flushes the disk and waits for everything in its cache, whoever wrote it."""
    settings = msgspec.structs.replace(settings, rate=rate)
    cache = disk_of(small_disk) / "queue/write_cache"
    commits = {}
    with segment(32 * MIB) as source, opened_directory(small_disk) as target:
        try:
            for kind in ("write through", "write back"):
                cache.write_text(kind)
                forget_disks()
                before = commits_of_ext4(small_disk)
                copied(source, target, settings=settings)
                commits[kind] = commits_of_ext4(small_disk) - before
                (target.path / "copy").unlink()
        finally:
            cache.write_text("write back")
    assert commits["write back"] >= commits["write through"] + 4


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "shared"])
def test_copy_sees_whether_others_flush_the_disk(small_disk: Path, alone: bool) -> None:
    """Small batches are for others' sake: without them they would cost time for nothing."""
    forget_disks()
    settings = CopySettings(rate="adaptive")
    done = threading.Event()

    def sync() -> None:
        with (small_disk / "other").open("wb") as file:
            while not done.is_set():
                os.pwrite(file.fileno(), b"some", 0)
                os.fsync(file.fileno())

    with segment(48 * MIB) as source, opened_directory(small_disk) as target:
        other = threading.Thread(target=sync)
        if not alone:
            other.start()
        try:
            copied(source, target, settings=settings)
        finally:
            done.set()
            if not alone:
                other.join()
        controller = controller_for(os.fstat(target.fd).st_dev, reading=False)
    assert controller.flush_batch.limit_s == (ALONE_S if alone else SHARED_S)


def forget_disks() -> None:
    """A new disk may have the device number of one that was removed."""
    limiter_for.cache_clear()
    controller_for.cache_clear()


def commits_of_ext4(directory: Path) -> int:
    """Return the transactions that the journal below *directory* has committed: each sync of new data is one."""
    name = disk_of(directory).resolve().name
    return int(Path(f"/proc/fs/jbd2/{name}-8/info").read_text().split()[0])


def mapped(source: Path) -> int:
    """Return how many times *source* is mapped here."""
    return Path("/proc/self/maps").read_text().count(source.name)


def test_copy_by_mapping_shares_one_window_among_writers(target: Destination) -> None:
    """The mapped part does not grow with the number of writers."""
    settings = msgspec.structs.replace(MMAP, writers=4)
    with segment(256 * MIB) as source:
        most = 0

        def progress(done: int) -> None:
            nonlocal most
            most = max(most, mapped(source))

        copied(source, target, settings=settings, progress=progress)
    assert most <= 2  # the second is still used by the slowest


def test_windows_are_never_more_than_two() -> None:
    """A writer that needs a third waits: a slow writer must not leave a trail of mappings."""
    with segment(3 * WINDOW_BYTES) as path, path.open("rb") as file:
        windows = MappedWindows(Source(file.fileno(), 0, None))
        whole = Extent(0, 3 * WINDOW_BYTES)
        first, second, third = (Chunk(at, at + MIB, whole, at) for at in range(0, 3 * WINDOW_BYTES, WINDOW_BYTES))
        arrived = threading.Event()

        def go_on() -> None:
            with windows.lend(third):
                arrived.set()

        with windows.lend(first):
            with windows.lend(second):
                other = threading.Thread(target=go_on)
                other.start()
                assert not arrived.wait(0.2)
                assert mapped(path) == 2
            assert arrived.wait(10)
            assert mapped(path) == 2
        other.join()
        with windows.lend(second):
            assert mapped(path) == 1
        windows.unmap_unused()
        assert mapped(path) == 0


def test_copy_by_mapping_keeps_its_page_tables_small(target: Destination) -> None:
    """A mapping costs 2 MiB of page tables per GiB: the window slides."""
    with segment(512 * MIB) as source:
        copied(source, target, "warm", MMAP, limit_bytes=4 * MIB)
        before = most = memory_kib("VmPTE")

        def progress(done: int) -> None:
            nonlocal most
            most = max(most, memory_kib("VmPTE"))

        copied(source, target, settings=MMAP, progress=progress)
    assert most - before <= 512


def test_copy_refuses_a_size_that_no_file_system_has(target: Destination) -> None:
    """Anybody can make an empty segment of 8 EiB: that is not a bug, and a step goes on to the next one."""
    with segment(0) as source:
        os.truncate(source, (1 << 63) - 1)
        with pytest.raises(CopyError) as raised:
            copied(source, target)
    assert raised.value.errno == errno.EFBIG
    assert target.names() == []


def test_copy_with_a_digest_keeps_what_came_before_its_source_failed(
    target: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a poisoned page is EIO: the part before it is kept, without a digest."""
    read = SourceReader.read

    def fail(self: SourceReader, buffer: Buffer, offset: int, size: int) -> int:
        if offset >= 8 * MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, buffer, offset, size)

    monkeypatch.setattr(SourceReader, "read", fail)
    with segment(16 * MIB) as source:
        report = copied(source, target, settings=CopySettings(digest=Digest.SHA256))
        assert (target.path / "copy").read_bytes() == source.read_bytes()[: 8 * MIB]
    assert (report.size_bytes, report.truncated, report.digest) == (8 * MIB, True, None)
    assert "Input/output error at byte" in (report.truncated_reason or "")


@METHODS
@pytest.mark.parametrize("digest", [Digest.NONE, Digest.XXH3_128])
def test_copy_says_that_a_source_of_many_extents_shrank(
    target: Destination, settings: CopySettings, digest: Digest
) -> None:
    """Extents beyond the remembered ones are looked up later: those cut off meanwhile must not count as holes."""
    pieces = [(at * 16_384, os.urandom(4096)) for at in range(3000)]
    with segment(3000 * 16_384, pieces=pieces) as source:

        def progress(done: int) -> None:
            if done == 200 * 4096:
                os.truncate(source, 1000 * 16_384 + 8192)

        report = copied(
            source, target, settings=msgspec.structs.replace(settings, digest=digest, writers=1), progress=progress
        )
        assert same(source, target.path / "copy")
    assert report.truncated
    assert "shrank" in str(report.truncated_reason)
    if report.digest:
        assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest((target.path / 'copy').read_bytes())}"


@METHODS
def test_copy_blames_the_source_for_its_errors(target: Destination, settings: CopySettings) -> None:
    """The error names the side that failed."""
    with segment(4 * MIB) as source:
        unreadable = os.open(source, os.O_WRONLY)
        try:
            with pytest.raises((CopyError, OSError)) as raised:
                engine.copy(unreadable, directory_fd=target.fd, name="copy", settings=settings)
        finally:
            os.close(unreadable)
    if settings.method is not MethodChoice.MMAP:  # which cannot even map it
        assert "cannot read the source" in str(raised.value)
    assert target.names() == []


def test_copy_needs_room_for_the_data_that_it_would_write(target: Destination) -> None:
    """Holes do not count, except those of one page, which are written (0014)."""
    far = [(64 * MIB, b"x" * MIB)]
    comb = [(at, b"x" * 4096) for at in range(0, 4 * MIB, 8192)]
    with segment(65 * MIB, pieces=far) as source:
        copied(source, target, "far", room_bytes=MIB, limit_bytes=65 * MIB)
    with segment(4 * MIB, pieces=comb) as source, pytest.raises(CopyError) as raised:
        copied(source, target, "comb", room_bytes=3 * MIB)
    assert raised.value.errno == errno.ENOSPC
    assert target.names() == ["far"]


class Counting(Limiter):
    """Never waits, and counts how often it was asked."""

    reserved = 0
    recorded = 0

    def reserve(self, now_s: float, size: int) -> float:
        self.reserved += 1
        return 0.0

    def record(self, now_s: float, size: int, latency_s: float) -> None:
        self.recorded += 1


@pytest.mark.parametrize("directory", ["/dev/shm", "/var/tmp"])
def test_reader_keeps_to_a_rate_on_a_disk(directory: str) -> None:
    """A core is read from a disk that others read from too; memory needs no limit."""
    limiter = Counting()
    with segment(4 * MIB, directory=directory) as path, path.open("rb") as file:
        source = Source(file.fileno(), 0, None)
        with lease(1, MIB) as (buffer,), contextlib.closing(SourceReader(source, Throttle(limiter=limiter))) as reader:
            for at in range(0, 4 * MIB, MIB):
                assert reader.read(buffer, at, MIB) == MIB
    expected = 0 if directory == "/dev/shm" else 4
    assert (limiter.reserved, limiter.recorded) == (expected, expected)


@pytest.mark.parametrize(
    ("asked", "writers", "align", "chunk"),
    [
        (1 << 20, 2, 4096, 1 << 20),
        (64 << 20, 4, 4096, 1 << 20),
        (64 << 20, 1, 4096, 4 << 20),
        (100_000, 2, 4096, 98_304),
        (100, 2, 4096, 4096),
        (100_000, 2, 65_536, 65_536),
    ],
)
def test_chunk_fits_the_buffers_and_the_disk(asked: int, writers: int, align: int, chunk: int) -> None:
    """Whatever is configured, no memory is allocated for it."""
    settings = CopySettings(chunk_bytes=asked, writers=writers)
    assert engine.chunk_size(settings, align) == chunk
