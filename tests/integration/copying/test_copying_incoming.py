"""Streams from sockets and pipes, as the kernel sends a core: received past the page cache, into a file with holes."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
import xxhash
from copying_fixtures import MIB, Destination, blocks_bytes, cached, memory_kib, opened_directory
from held import held

from collector.copying import deferred_sync, schedule
from collector.copying.incoming import receive
from collector.copying.receiver import opened_stream
from collector.host.compression import zstd
from collector.host.corefile import core_reader
from collector.host.elfcore import notes
from collector.model.artifact import Incoming, Instead
from collector.model.copying import Advice, CopyReport, Feedback

PAGE = 4096
Ends = tuple[int, int]


def socket_ends() -> Ends:
    first, second = socket.socketpair()
    return first.detach(), second.detach()


def waiting_socket_ends() -> Ends:
    """Sockets that never block, as a loop of events accepts them."""
    ends = socket_ends()
    os.set_blocking(ends[0], False)
    return ends


STREAMS = {"socket": socket_ends, "pipe": os.pipe, "nonblocking": waiting_socket_ends}


@contextlib.contextmanager
def sent(
    *pieces: bytes | bytearray | Iterable[bytes], ends: Ends | None = None, then: Callable[[], object] = int
) -> Iterator[int]:
    """Send *pieces* from a thread, do something *then*, and close; yield the end to read from."""
    incoming, out = ends or socket_ends()

    def send() -> None:
        with contextlib.suppress(OSError), open(out, "wb", buffering=0) as file:
            for piece in itertools.chain.from_iterable(
                [one] if isinstance(one, bytes | bytearray) else one for one in pieces
            ):
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
            then()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield incoming
    finally:
        os.close(incoming)
        thread.join()


def received(
    target: Destination,
    fd: int,
    *,
    room_bytes: int | None = None,
    ask: Callable[[], Feedback] = lambda: Feedback(Advice.GO),
    progress: Callable[[int], None] = int,  # type: ignore[assignment]
    **more: object,
) -> CopyReport:
    incoming = Incoming(fd=fd, **more)  # type: ignore[arg-type]
    return receive(
        incoming,
        directory_fd=target.fd,
        name="core",
        rate="max",
        room_bytes=room_bytes,
        ask=ask,
        progress=progress,
    )


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("size", [0, 1, PAGE, MIB - 1, MIB, MIB + 1, 5 * MIB + 7])
def test_stream_arrives_whole(target: Destination, kind: str, size: int) -> None:
    """Head first; the digest is the file's; no page of it stays in the cache, and the descriptor is the sender's."""
    head, rest = os.urandom(300), os.urandom(size)
    progress: list[int] = []
    with sent(rest[:70_001], rest[70_001:], ends=STREAMS[kind]()) as fd:
        report = received(target, fd, head=head, size_bytes=300 + size, progress=progress.append)
        os.fstat(fd)
    assert (target.path / "core").read_bytes() == head + rest
    assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(head + rest)}"
    assert (report.size_bytes, report.data_bytes, report.truncated) == (300 + size, 300 + size, False)
    assert progress[-1] == 300 + size
    assert target.names() == ["core"]


def test_long_head_comes_first(target: Destination) -> None:
    """The notes of a process of thousands of threads are longer than a buffer."""
    head = os.urandom(2 * MIB + 5)
    with sent(b"rest") as fd:
        received(target, fd, head=head)
    assert (target.path / "core").read_bytes() == head + b"rest"


def test_stream_leaves_no_page_in_the_cache(target: Destination) -> None:
    with sent(os.urandom(9 * MIB + 100)) as fd:
        report = received(target, fd)
    assert report.direct
    found = cached(target.path / "core")
    assert (found.cached, found.dirty, found.writeback) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["socket", "nonblocking"])
def test_one_call_receives_a_mebibyte(kind: str) -> None:
    """The kernel sends a core in pieces of 12 KiB, and a call for each would be most of the work."""
    with sent(*[bytes(12 << 10)] * 100, ends=STREAMS[kind]()) as fd, opened_stream(fd) as take:
        assert take(memoryview(bytearray(MIB))) == MIB


def test_pages_of_zeros_become_holes(target: Destination) -> None:
    """Also at the end, and the file reads as what was sent."""
    data = bytearray(6 * MIB)
    data[:PAGE] = data[2 * MIB : 2 * MIB + PAGE] = os.urandom(PAGE)
    data[4 * MIB - 1] = 1
    with sent(data) as fd:
        report = received(target, fd)
    assert (target.path / "core").read_bytes() == data
    assert (report.size_bytes, report.data_bytes, report.extents) == (6 * MIB, 3 * PAGE, 3)
    assert blocks_bytes(target.path / "core") == 3 * PAGE
    assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"


def test_zeros_are_written_if_holes_are_not_wanted(target: Destination) -> None:
    with sent(bytes(2 * MIB)) as fd:
        assert received(target, fd, holes=False).data_bytes == 2 * MIB


@pytest.mark.parametrize("limit", [100, MIB, MIB + PAGE])
@pytest.mark.parametrize("size", [None, 3 * MIB])
def test_stream_is_cut_at_its_limit(target: Destination, limit: int, size: int | None) -> None:
    data = os.urandom(3 * MIB)
    with sent(data) as fd:
        report = received(target, fd, limit_bytes=limit, size_bytes=size)
    assert (target.path / "core").read_bytes() == data[:limit]
    assert (report.truncated, report.truncated_reason) == (True, f"limited to {limit} bytes by max_bytes")


def test_stream_that_just_keeps_to_its_limit_is_whole(target: Destination) -> None:
    with sent(bytes(MIB)) as fd:
        assert not received(target, fd, limit_bytes=MIB).truncated


def test_stream_that_ends_early_says_so(target: Destination) -> None:
    """The process was killed while it was dumped."""
    with sent(b"x" * 1000) as fd:
        report = received(target, fd, size_bytes=5000)
    assert (report.size_bytes, report.truncated_reason) == (1000, "the core ended 4000 bytes early")


def test_stream_keeps_what_came_before_it_failed(target: Destination) -> None:
    """A connection that is closed with something unread is reset."""
    first, second = socket.socketpair()
    with first, second:
        first.send(b"unread")
        second.close()
        report = received(target, first.fileno(), head=b"x" * 1000)
    assert (report.size_bytes, report.truncated_reason) == (1000, "the source failed: Connection reset by peer")


STOP = Feedback(Advice.STOP, "memory is short")


def stops_after(count: int) -> Callable[[], Feedback]:
    """Say STOP from the *count*-th question on."""
    answers = iter([Feedback(Advice.GO)] * count)
    return lambda: next(answers, STOP)


def test_stop_keeps_what_came(target: Destination) -> None:
    data = os.urandom(50 * MIB)
    with sent(data) as fd:
        report = received(target, fd, ask=lambda: STOP)
    assert (report.truncated, report.truncated_reason) == (True, "memory is short")
    assert report.size_bytes == MIB
    assert (target.path / "core").read_bytes() == data[:MIB]


def test_what_there_is_instead_takes_the_place_of_all_that_came(target: Destination) -> None:
    """It is little, and is not held up by the gate that asked for it."""
    reasons: list[tuple[str, float | None]] = []

    def instead(reason: str, rate: float | None) -> Instead:
        reasons.append((reason, rate))
        return Instead([b"stacks" * 20_000, b"more" * 300_000], f"only stacks: {reason}")

    with sent(os.urandom(5 * MIB)) as fd:
        report = received(target, fd, ask=lambda: STOP, instead=instead)
    assert reasons == [("memory is short", None)]
    assert (report.truncated, report.truncated_reason) == (True, "only stacks: memory is short")
    assert (target.path / "core").read_bytes() == b"stacks" * 20_000 + b"more" * 300_000
    assert report.size_bytes == 1_320_000
    assert target.names() == ["core"]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("size", "given_up"), [(1 << 40, True), (8 * MIB, False)])
def test_stream_that_cannot_come_in_time_gives_way_to_what_is_smaller(
    target: Destination, monkeypatch: pytest.MonkeyPatch, size: int, given_up: bool, compress: bool
) -> None:
    """At the pace at which it has come so far."""
    monkeypatch.setattr(schedule, "LEARNING_S", 0.2)
    rates: list[float | None] = []

    def instead(reason: str, rate: float | None) -> Instead:
        rates.append(rate)
        return Instead([b"stacks"], reason)

    def slowly() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(0.1)
            yield os.urandom(MIB)

    with sent(slowly()) as fd:
        report = received(
            target, fd, size_bytes=size, deadline_s=time.monotonic() + 60, instead=instead, compress=compress
        )
    assert report.truncated is given_up
    assert (target.path / "core").read_bytes() == b"stacks" if given_up else report.size_bytes >= 8 * MIB
    assert len(rates) == given_up
    assert not given_up or "would not have come in time" in str(report.truncated_reason)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("compress", [False, True])
def test_stop_is_noticed_while_nothing_comes(target: Destination, kind: str, compress: bool) -> None:
    """A sender that stalls: what had come is kept."""
    over = threading.Event()
    with sent(b"x" * 300_000, ends=STREAMS[kind](), then=over.wait) as fd:
        report = received(target, fd, ask=stops_after(3), compress=compress)
        over.set()
    assert report.truncated_reason == "memory is short"
    content = (target.path / "core").read_bytes()
    assert (zstd.decompress(content) if compress else content) == b"x" * 300_000


def test_stream_waits_for_a_sender_that_pauses(target: Destination) -> None:
    """In the middle of a MiB, for longer than one wait takes."""
    asked: list[int] = []
    resumed = threading.Event()

    def ask() -> Feedback:
        asked.append(1)
        if len(asked) == 4:
            resumed.set()
        return Feedback(Advice.GO)

    ends = socket_ends()
    with sent(b"x" * 1000, ends=ends, then=lambda: (resumed.wait(), os.write(ends[1], b"y" * 1000))) as fd:
        report = received(target, fd, ask=ask)
    assert (report.size_bytes, report.truncated) == (2000, False)


def test_stream_ends_where_the_room_does(target: Destination) -> None:
    """The archive's reserve is not for cores; what is left out as a hole needs no room."""
    data = os.urandom(MIB) + bytes(4 * MIB) + os.urandom(2 * MIB)
    with sent(data) as fd:
        report = received(target, fd, room_bytes=2 * MIB)
    assert (target.path / "core").read_bytes() == data[: 6 * MIB]
    assert "2.0 MiB free for it beyond archive.reserve" in str(report.truncated_reason)


def test_stream_without_room_gives_way_to_what_is_smaller(target: Destination) -> None:
    with sent(os.urandom(5 * MIB)) as fd:
        report = received(target, fd, room_bytes=MIB, instead=lambda reason, _: Instead([b"stacks"], reason))
    deferred_sync.sync_all()
    assert (target.path / "core").read_bytes() == b"stacks"
    assert report.truncated


def test_stream_keeps_what_came_before_the_disk_was_full(small_disk: os.PathLike[str]) -> None:
    data = os.urandom(80 * MIB)
    with sent(data) as fd, opened_directory(small_disk) as directory:  # type: ignore[arg-type]
        report = received(directory, fd)
        kept = (directory.path / "core").read_bytes()
    assert "No space left on device" in str(report.truncated_reason)
    assert 20 * MIB < len(kept) == report.size_bytes < 80 * MIB
    assert kept == data[: len(kept)]


def test_compressed_stream_is_one_frame_of_zstd(target: Destination) -> None:
    data = os.urandom(3 * MIB) + bytes(9 * MIB) + b"text" * 10_000
    with sent(data) as fd:
        report = received(target, fd, head=b"head", compress=True)
    content = (target.path / "core").read_bytes()
    assert zstd.decompress(content) == b"head" + data
    assert report.digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(content)}"
    assert (report.size_bytes, report.truncated) == (len(content), False)
    assert len(content) < 3.1 * MIB


@pytest.mark.parametrize("compress", [False, True])
def test_stream_needs_no_more_memory_than_its_buffers(target: Destination, compress: bool) -> None:
    """Afterwards there is as much as before, and during it a window of zstd."""
    with sent(os.urandom(3 * MIB)) as fd:
        received(target, fd, compress=compress)
    os.unlink(target.path / "core")
    data = os.urandom(64 * MIB)
    before, most = memory_kib("RssAnon", "RssShmem"), 0

    def ask() -> Feedback:
        nonlocal most
        most = max(most, memory_kib("RssAnon", "RssShmem"))
        return Feedback(Advice.GO)

    with sent(data) as fd:
        received(target, fd, compress=compress, ask=ask)
    assert most - before < (3072 if compress else 512)
    assert memory_kib("RssAnon", "RssShmem") - before < 512


def test_stream_is_received_without_a_thread_too(target: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a starving machine there may be no memory for one."""
    data = os.urandom(5 * MIB + 3)
    with sent(data) as fd:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        report = received(target, fd, head=b"head")
    assert (target.path / "core").read_bytes() == b"head" + data
    assert not report.truncated


@pytest.mark.root
def test_core_of_a_held_process_arrives_whole(target: Destination) -> None:
    """256 MiB of which an eighth was touched: the ELF file ends where its headers say, and the rest is holes."""
    program = """
import mmap, os
memory = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, 32 << 20, 1 << 20):
    memory[at : at + (1 << 20)] = b"x" * (1 << 20)
os.kill(os.getpid(), 11)
"""
    with held([sys.executable, "-I", "-S", "-c", program]) as crashed:
        crashed.accept()
        report = received(target, crashed.stream_fd)
        assert crashed.is_held
    with (target.path / "core").open("rb") as file:
        header, found = notes(core_reader(file.fileno()))
        assert header.end_bytes == report.size_bytes
        assert list(found)
    assert report.size_bytes > 256 * MIB
    assert report.data_bytes < 64 * MIB
    assert blocks_bytes(target.path / "core") <= report.data_bytes + 64 * PAGE
