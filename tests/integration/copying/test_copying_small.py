"""Small files, copied through the page cache and synced together: nothing else about them differs."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from copying_fixtures import FAST, MIB, Destination, blocks_bytes, cached, copied, opened_directory, segment

from collector.copying import deferred_sync
from collector.copying.deferred_sync import SMALL_BYTES
from collector.copying.rate.limiter import Limiter
from collector.host import disk
from collector.model.copying import Advice, CopySettings, Digest, Feedback
from collector.model.errors import CopyError

HOLEY = [(8192, b"x" * 100), (40960, os.urandom(4096))]


@pytest.fixture(autouse=True)
def synced() -> Iterator[None]:
    yield
    deferred_sync.sync_all()


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, SMALL_BYTES])
def test_small_copy_is_the_file_with_its_digest(target: Destination, size: int) -> None:
    """The digest is of the bytes that were written, so that sealing need not read them."""
    with segment(size) as source:
        report = copied(source, target, deferred=True)
        data = source.read_bytes()
    assert (target.path / "copy").read_bytes() == data
    assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"
    assert (report.size_bytes, report.data_bytes, report.truncated, report.changed) == (size, size, False, False)
    assert target.names() == ["copy"]


def test_small_copy_keeps_holes(target: Destination) -> None:
    with segment(SMALL_BYTES, pieces=HOLEY) as source:
        before = blocks_bytes(source)
        report = copied(source, target, deferred=True)
        assert (target.path / "copy").read_bytes() == source.read_bytes()
        assert blocks_bytes(source) == before
    deferred_sync.sync_all()
    assert (report.size_bytes, report.data_bytes, report.extents) == (SMALL_BYTES, 8192, 2)
    assert blocks_bytes(target.path / "copy") == 8192


def test_small_copy_has_the_digest_that_is_asked_for(target: Destination) -> None:
    with segment(100) as source:
        report = copied(source, target, settings=CopySettings(digest=Digest.SHA256), deferred=True)
    assert str(report.digest).startswith("sha256:")


def test_small_copies_leave_no_page_in_the_cache_and_are_few_at_any_time(target: Destination) -> None:
    """1 MiB waits, and as much is being synced; in the end there is nothing."""
    most = 0
    with segment(SMALL_BYTES) as source:
        for number in range(80):
            copied(source, target, f"copy{number}", deferred=True)
            most = max(most, sum(cached(target.path / name).cached for name in target.names()))
    deferred_sync.sync_all()
    assert 0 < most * 4096 <= 2 * MIB + SMALL_BYTES
    assert sum(cached(target.path / name).cached for name in target.names()) == 0


def test_small_copies_share_their_flushes(small_disk: Path) -> None:
    """Each file costs one flush, and each of five batches a few commits; synced one by one, it is two for each."""
    with segment(SMALL_BYTES) as source, opened_directory(small_disk) as directory:
        copied(source, directory, "first", deferred=True)
        deferred_sync.sync_all()
        disks = disk.disks(os.stat(small_disk).st_dev)
        before = disk.flushes(disks)
        for number in range(80):
            copied(source, directory, f"copy{number}", deferred=True)
        deferred_sync.sync_all()
        after = disk.flushes(disks)
    assert before is not None
    assert after is not None
    assert after - before <= 120


def test_batches_teach_the_limiter_how_fast_the_disk_is(target: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """As writes of 1 MiB: with nothing to learn from, small files would hold up everybody on a slow disk."""
    learnt: list[int] = []
    monkeypatch.setattr(Limiter, "record", lambda _, now_s, size, latency_s: learnt.append(size))
    with segment(SMALL_BYTES) as source:
        for number in range(40):
            copied(source, target, f"copy{number}", deferred=True)
    deferred_sync.sync_all()
    assert learnt == [MIB, MIB, 8 * SMALL_BYTES]


def test_larger_file_is_durable_at_once(target: Destination) -> None:
    with segment(SMALL_BYTES + 1) as source:
        report = copied(source, target, deferred=True)
    assert report.chunk_bytes == FAST.chunk_bytes
    found = cached(target.path / "copy")
    assert (found.dirty, found.writeback) == (0, 0)


def test_small_copy_that_is_limited_says_so(target: Destination) -> None:
    with segment(10_000) as source:
        report = copied(source, target, limit_bytes=5000, deferred=True)
        assert (target.path / "copy").read_bytes() == source.read_bytes()[:5000]
    assert (report.truncated, report.truncated_reason) == (True, "limited to 5000 bytes")


def test_small_copy_keeps_to_the_room_that_it_has(target: Destination) -> None:
    """The archive's reserve is not for small files either; holes need no room."""
    with segment(SMALL_BYTES, pieces=HOLEY) as source:
        copied(source, target, "fits", room_bytes=8192, deferred=True)
        with pytest.raises(CopyError) as caught:
            copied(source, target, room_bytes=8191, deferred=True)
    assert caught.value.errno == errno.ENOSPC
    assert target.names() == ["fits"]


def test_small_copy_is_stopped_by_the_gate(target: Destination) -> None:
    with segment(100) as source:
        report = copied(source, target, ask=lambda: Feedback(Advice.STOP, "memory is short"), deferred=True)
    assert (report.size_bytes, report.data_bytes, report.truncated_reason) == (0, 0, "memory is short")


def test_small_copy_ends_where_the_source_shrank(target: Destination) -> None:
    with segment(10_000) as source:

        def shrink() -> Feedback:
            os.truncate(source, 3000)
            return Feedback(Advice.GO)

        report = copied(source, target, ask=shrink, deferred=True)
    assert (report.size_bytes, report.truncated_reason) == (3000, "the source shrank below 10000 bytes")
    assert report.changed


def test_small_copy_on_a_full_disk_leaves_nothing_behind(small_disk: Path) -> None:
    with segment(SMALL_BYTES) as source, opened_directory(small_disk) as directory:
        fill(small_disk / "ballast")
        before = directory.names()
        with pytest.raises(CopyError) as caught:
            copied(source, directory, deferred=True)
    assert caught.value.errno == errno.ENOSPC
    assert before == sorted(os.listdir(small_disk))


def fill(path: Path) -> None:
    """Write zeros to *path* until the disk is full."""
    with path.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
