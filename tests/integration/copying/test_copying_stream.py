from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from copying_fixtures import MIB, Destination, cached, memory_kib, opened_directory, scattered, segment

from collector.copying import deferred_sync, hashing, stream
from collector.copying.rate.limiter import Limiter
from collector.model.artifact import Truncated
from collector.model.copying import Advice, Digest, Feedback
from collector.model.errors import CopyError, StepError


@pytest.mark.parametrize("size", [0, 1, 300, 64 << 10, (64 << 10) + 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7])
def test_stream_writes_every_length_with_its_digest(target: Destination, size: int) -> None:
    """From nothing to many buffers: the bytes and their digest."""
    data = os.urandom(size)
    pieces = [data[at : at + 70_001] for at in range(0, size, 70_001)]
    report = stream.write(pieces, directory_fd=target.fd, name="file")
    deferred_sync.sync_all()
    assert (target.path / "file").read_bytes() == data
    assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"
    assert (report.size_bytes, report.truncated) == (size, False)
    assert (target.path / "file").stat().st_mode & 0o7777 == 0o600
    assert target.names() == ["file"]


def test_stream_leaves_no_page_in_the_cache(target: Destination) -> None:
    """Hundreds of small files and a large one: once synced, none of them is in memory."""
    for number in range(200):
        stream.write([b"x" * 300], directory_fd=target.fd, name=f"small{number}")
    stream.write((bytes(100_000) for _ in range(100)), directory_fd=target.fd, name="large")
    deferred_sync.sync_all()
    found = [cached(target.path / name) for name in target.names()]
    assert sum(item.cached + item.dirty + item.writeback for item in found) == 0


def test_small_files_are_never_more_than_a_few_dirty_pages(target: Destination) -> None:
    """Small files wait to be synced together, but not for long: 64 files, or 1 MiB, and as much being synced."""
    most = 0
    for number in range(150):
        stream.write([b"x" * 30_000], directory_fd=target.fd, name=f"small{number}")
        most = max(most, sum(cached(target.path / name).cached for name in target.names()))
    deferred_sync.sync_all()
    assert most * 4096 <= 2.25 * MIB


def test_stream_keeps_what_came_before_it_was_truncated(target: Destination) -> None:
    """A stream can say that it is incomplete; what came before is kept."""

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise Truncated("more than 4 bytes")

    report = stream.write(pieces(), directory_fd=target.fd, name="file")
    assert (report.truncated, report.truncated_reason) == (True, "more than 4 bytes")
    assert (target.path / "file").read_bytes() == b"some"


def test_stream_keeps_what_came_before_its_source_failed(target: Destination) -> None:
    """The process behind a /proc file can exit midway: what was read is kept."""

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise ProcessLookupError(3, "No such process")

    report = stream.write(pieces(), directory_fd=target.fd, name="file")
    assert report.truncated
    assert "No such process" in str(report.truncated_reason)
    assert (target.path / "file").read_bytes() == b"some"


def test_stream_passes_on_a_step_error_after_keeping_what_came(target: Destination) -> None:
    """The step fails, but the bytes before the error are kept."""

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise StepError("nothing more to read")

    with pytest.raises(StepError, match="nothing more"):
        stream.write(pieces(), directory_fd=target.fd, name="file")
    assert (target.path / "file").read_bytes() == b"some"


def test_stream_stops_where_the_gate_says_so(target: Destination) -> None:
    """STOP keeps what is written and says why it is incomplete."""
    report = stream.write(
        (bytes(MIB) for _ in range(50)),
        directory_fd=target.fd,
        name="file",
        ask=lambda: Feedback(Advice.STOP, "memory is short"),
    )
    assert (report.truncated, report.truncated_reason) == (True, "memory is short")
    assert (target.path / "file").stat().st_size == report.size_bytes < 50 * MIB


def test_stream_books_all_that_it_writes_with_its_limiter(target: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate in bytes bounds a stream too, including its last part; what is small is written with others."""
    booked: list[tuple[float | None, int]] = []
    reserve = Limiter.reserve

    def book(self: Limiter, now_s: float, size: int) -> float:
        booked.append((self.bound, size))
        return reserve(self, now_s, size)

    monkeypatch.setattr(Limiter, "reserve", book)
    stream.write((bytes(500_000) for _ in range(5)), directory_fd=target.fd, name="file", rate=10**9)
    stream.write((bytes(64 << 10),), directory_fd=target.fd, name="small", rate=10**9)
    deferred_sync.sync_all()
    assert booked == [(10**9, MIB), (10**9, MIB), (10**9, 2_500_000 - 2 * MIB)]


def test_stream_keeps_its_last_part_when_the_gate_stops_it_there(target: Destination) -> None:
    """What was read already is written: STOP spares what is still to come."""
    report = stream.write(
        (bytes(300_000),), directory_fd=target.fd, name="file", ask=lambda: Feedback(Advice.STOP, "memory is short")
    )
    assert (report.size_bytes, report.truncated) == (300_000, False)


def test_stream_needs_no_more_memory_for_a_longer_stream(target: Destination) -> None:
    """One buffer for every length."""
    piece = bytes(65_536)
    stream.write((piece for _ in range(64)), directory_fd=target.fd, name="short")
    before = memory_kib("RssAnon")
    stream.write((piece for _ in range(2048)), directory_fd=target.fd, name="long")
    assert memory_kib("RssAnon") - before < 512


def test_stream_refuses_a_name_that_is_taken(target: Destination) -> None:
    """Nothing is replaced."""
    stream.write([b"first"], directory_fd=target.fd, name="file")
    with pytest.raises(CopyError):
        stream.write([b"second"], directory_fd=target.fd, name="file")
    assert (target.path / "file").read_bytes() == b"first"
    assert target.names() == ["file"]


@pytest.mark.parametrize("algorithm", [Digest.XXH3_128, Digest.SHA256])
def test_digest_is_of_the_content_and_leaves_no_page(target: Destination, algorithm: Digest) -> None:
    """What the disk returns, holes as zeros, read past the page cache."""
    size = 24 * MIB + 11
    with segment(size, pieces=scattered(24 * MIB, 5, 10_000), directory=str(target.path)) as path:
        data = path.read_bytes()
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            seen: list[int] = []
            found = hashing.digest(file.fileno(), algorithm=algorithm, rate="max", progress=seen.append)
        assert cached(path).cached == 0
    expected = xxhash.xxh3_128_hexdigest(data) if algorithm is Digest.XXH3_128 else hashlib.sha256(data).hexdigest()
    assert found == f"{algorithm}:{expected}"
    assert seen == sorted(seen)
    assert seen[-1] == size


def test_digest_stops_where_the_gate_says_so(target: Destination) -> None:
    """There is no digest of a part."""
    path: Path = target.path / "file"
    path.write_bytes(bytes(3 * MIB) + b"x")
    with path.open("rb") as file, pytest.raises(CopyError, match="memory is short"):
        hashing.digest(file.fileno(), ask=lambda: Feedback(Advice.STOP, "memory is short"))


def test_digest_stops_within_a_hole(target: Destination) -> None:
    """A hole is not read, but digesting its zeros takes time."""
    with open(target.path / "hole", "wb+") as file:
        file.truncate(4 << 30)
        with pytest.raises(CopyError, match="an incident goes first"):
            hashing.digest(file.fileno(), ask=lambda: Feedback(Advice.STOP, "an incident goes first"))


@pytest.mark.root
def test_stream_leaves_nothing_when_its_first_buffer_does_not_fit(small_disk: Path) -> None:
    """An empty file would look as if there had been nothing to write."""
    with (small_disk / "filler").open("wb") as filler, opened_directory(small_disk) as target:
        while True:
            try:
                os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), 256 << 10)
            except OSError:
                break
        with pytest.raises(CopyError, match="No space left"):
            stream.write((bytes(2 * MIB),), directory_fd=target.fd, name="stream")
        assert sorted(set(target.names()) - {"lost+found"}) == ["filler"]
