from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from copying_fixtures import MIB, Directory, cached, memory_kib, opened_directory, scattered, segment

from collector.copying import deferred_sync, readback, stream
from collector.model.artifact import Truncated
from collector.model.copying import Advice, Digest, Feedback
from collector.model.errors import CopyError, StepError


@pytest.mark.parametrize("size", [0, 1, 300, 64 << 10, (64 << 10) + 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7])
def test_stream_writes_every_length_with_its_digest(target: Directory, size: int) -> None:
    """From nothing to many buffers: the bytes, their digest, and no page left behind."""
    data = os.urandom(size)
    pieces = [data[at : at + 70_001] for at in range(0, size, 70_001)]
    report = stream.write(pieces, directory_fd=target.fd, name="file")
    deferred_sync.sync_all()
    assert (target.path / "file").read_bytes() == data
    assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"
    assert (report.size_bytes, report.truncated) == (size, False)
    assert (target.path / "file").stat().st_mode & 0o7777 == 0o600
    assert target.names() == ["file"]


def test_stream_leaves_no_page_in_the_cache(target: Directory) -> None:
    """Hundreds of small files and a large one: once synced, none of them is in memory."""
    for number in range(200):
        stream.write([b"x" * 300], directory_fd=target.fd, name=f"small{number}")
    stream.write((bytes(100_000) for _ in range(100)), directory_fd=target.fd, name="large")
    deferred_sync.sync_all()
    found = [cached(target.path / name) for name in target.names()]
    assert sum(item.cached + item.dirty + item.writeback for item in found) == 0


def test_small_files_are_never_more_than_a_few_dirty_pages(target: Directory) -> None:
    """Small files wait to be synced together, but not for long: 64 files, or 1 MiB."""
    most = 0
    for number in range(150):
        stream.write([b"x" * 30_000], directory_fd=target.fd, name=f"small{number}")
        most = max(most, sum(cached(target.path / name).cached for name in target.names()))
    deferred_sync.sync_all()
    assert most * 4096 <= 1.25 * MIB


def test_stream_keeps_what_came_before_it_was_truncated(target: Directory) -> None:
    """A stream that knows it is not all says so, and what came is kept."""

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise Truncated("more than 4 bytes")

    report = stream.write(pieces(), directory_fd=target.fd, name="file")
    assert (report.truncated, report.truncated_reason) == (True, "more than 4 bytes")
    assert (target.path / "file").read_bytes() == b"some"


def test_stream_keeps_what_came_before_its_source_failed(target: Directory) -> None:
    """A file of /proc whose process went away midway is worth what it gave."""

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise ProcessLookupError(3, "No such process")

    report = stream.write(pieces(), directory_fd=target.fd, name="file")
    assert report.truncated
    assert "No such process" in str(report.truncated_reason)
    assert (target.path / "file").read_bytes() == b"some"


def test_stream_passes_on_a_step_error_after_keeping_what_came(target: Directory) -> None:
    """The step fails as its collector says; its bytes are not lost."""

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise StepError("nothing more to be had")

    with pytest.raises(StepError, match="nothing more"):
        stream.write(pieces(), directory_fd=target.fd, name="file")
    assert (target.path / "file").read_bytes() == b"some"


def test_stream_stops_at_its_limit(target: Directory) -> None:
    """An endless source fills a file of the limit's length, not the disk."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b"y\n" * 30_000

    report = stream.write(endless(), directory_fd=target.fd, name="file", limit_bytes=3 * MIB + 5)
    assert (report.size_bytes, report.truncated) == (3 * MIB + 5, True)
    assert (target.path / "file").stat().st_size == 3 * MIB + 5


def test_stream_of_exactly_its_limit_is_whole(target: Directory) -> None:
    """Nothing was left out, so nothing is truncated."""
    report = stream.write([b"1234"], directory_fd=target.fd, name="file", limit_bytes=4)
    assert (report.size_bytes, report.truncated) == (4, False)


def test_stream_stops_where_the_gate_says_so(target: Directory) -> None:
    """STOP keeps what is written, and says why that is not all."""
    report = stream.write(
        (bytes(MIB) for _ in range(50)),
        directory_fd=target.fd,
        name="file",
        ask=lambda: Feedback(Advice.STOP, "memory is short"),
    )
    assert (report.truncated, report.truncated_reason) == (True, "memory is short")
    assert (target.path / "file").stat().st_size == report.size_bytes < 50 * MIB


def test_stream_needs_no_more_memory_for_a_longer_stream(target: Directory) -> None:
    """One buffer for every length."""
    piece = bytes(65_536)
    stream.write((piece for _ in range(64)), directory_fd=target.fd, name="short")
    before = memory_kib("RssAnon")
    stream.write((piece for _ in range(2048)), directory_fd=target.fd, name="long")
    assert memory_kib("RssAnon") - before < 512


def test_stream_refuses_a_name_that_is_taken(target: Directory) -> None:
    """Nothing is replaced."""
    stream.write([b"first"], directory_fd=target.fd, name="file")
    with pytest.raises(CopyError):
        stream.write([b"second"], directory_fd=target.fd, name="file")
    assert (target.path / "file").read_bytes() == b"first"
    assert target.names() == ["file"]


@pytest.mark.parametrize("algorithm", [Digest.XXH3_128, Digest.SHA256])
def test_readback_digests_the_content_and_leaves_no_page(target: Directory, algorithm: Digest) -> None:
    """What the disk returns, holes as zeros, read past the page cache."""
    size = 24 * MIB + 11
    with segment(size, pieces=scattered(24 * MIB, 5, 10_000), directory=str(target.path)) as path:
        data = path.read_bytes()
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            seen: list[int] = []
            found = readback.digest(file.fileno(), algorithm=algorithm, rate="max", progress=seen.append)
        assert cached(path).cached == 0
    import hashlib

    expected = xxhash.xxh3_128_hexdigest(data) if algorithm is Digest.XXH3_128 else hashlib.sha256(data).hexdigest()
    assert found == f"{algorithm}:{expected}"
    assert seen == sorted(seen)
    assert seen[-1] == size


def test_readback_stops_where_the_gate_says_so(target: Directory) -> None:
    """A digest that is not of all is none."""
    path: Path = target.path / "file"
    path.write_bytes(bytes(3 * MIB) + b"x")
    with path.open("rb") as file, pytest.raises(CopyError, match="memory is short"):
        readback.digest(file.fileno(), ask=lambda: Feedback(Advice.STOP, "memory is short"))


def test_readback_stops_within_a_hole(target: Directory) -> None:
    """A file without data has nothing to be read, but digesting its hole takes time all the same."""
    with open(target.path / "hole", "wb+") as file:
        file.truncate(4 << 30)
        with pytest.raises(CopyError, match="an incident goes first"):
            readback.digest(file.fileno(), ask=lambda: Feedback(Advice.STOP, "an incident goes first"))


@pytest.mark.root
def test_stream_leaves_nothing_where_not_even_its_first_buffer_fits(small_disk: Path) -> None:
    """No empty file under the final name: that would look as if there had been nothing to write."""
    with (small_disk / "filler").open("wb") as filler, opened_directory(small_disk) as target:
        while True:
            try:
                os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), 256 << 10)
            except OSError:
                break
        with pytest.raises(CopyError, match="No space left"):
            stream.write((bytes(2 * MIB),), directory_fd=target.fd, name="stream")
        assert sorted(set(target.names()) - {"lost+found"}) == ["filler"]
