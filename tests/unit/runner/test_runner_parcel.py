"""A parcel: what is put into it stays open in the kernel, whatever becomes of who put it there."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from collector.model.artifact import Artifact, Bulk, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.runner import parcel
from collector.runner.parcel import ParcelSender, unpacked

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def memory(data: bytes) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd


def file(name: str, data: bytes, **limits: int) -> Artifact:
    return Artifact(path=PurePosixPath(name), body=Bulk(fd=memory(data), **limits), truncated="max_each")  # type: ignore[arg-type]


def text(name: str, *pieces: bytes, cut: str = "") -> Artifact:
    return Artifact(path=PurePosixPath(name), body=stream(*pieces, cut=cut), source=SourceInfo(path="/x", uid=7))


def stream(*pieces: bytes, cut: str) -> Iterator[bytes]:
    yield from pieces
    if cut:
        raise Truncated(cut)


def sent(pair: Pair, *artifacts: Artifact) -> ParcelSender:
    """Put *artifacts* into a parcel and close its end, as a worker that is done does."""
    sender = ParcelSender(pair[1].fileno())
    for artifact in artifacts:
        sender.put(artifact)
    sender.close()
    pair[1].close()
    return sender


def content(artifact: Artifact) -> tuple[str, bytes, str]:
    """Return a name, the bytes, and why they are not all; as a writer does, close the file."""
    if isinstance(artifact.body, Bulk):
        data = os.pread(artifact.body.fd, artifact.body.limit_bytes or 1 << 20, artifact.body.offset)
        os.close(artifact.body.fd)
        return str(artifact.path), data, ""
    data, cut = b"", ""
    try:
        for piece in artifact.body:
            data += piece  # type: ignore[operator]
    except Truncated as exc:
        cut = exc.reason
    return str(artifact.path), data, cut


def open_files() -> int:
    gc.collect()  # what other tests have left open is not to be closed in between
    return len(os.listdir("/proc/self/fd"))


def test_parcel_has_everything_in_its_order(pair: Pair) -> None:
    sent(
        pair,
        text("list", b"one\n", b"two\n"),
        file("a", b"0123456789", offset=2, limit_bytes=3),
        text("cut", b"x", cut="no more"),
    )
    found = list(map(content, unpacked(pair[0].fileno())))
    assert found == [("list", b"one\ntwo\n", ""), ("a", b"234", ""), ("cut", b"x", "no more")]


def test_parcel_keeps_what_is_known_of_an_artifact(pair: Pair) -> None:
    sent(pair, text("list", b""), file("a", b""))
    described, cut = [
        (artifact.source, artifact.truncated, content(artifact)) for artifact in unpacked(pair[0].fileno())
    ]
    assert described[0] == SourceInfo(path="/x", uid=7)
    assert cut[1] == "max_each"


def test_parcel_takes_no_descriptor_of_the_worker_that_fills_it(pair: Pair) -> None:
    before, (soft, hard) = open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 210, hard))  # 200 files, and what it needs itself
    try:
        sender = sent(pair, *(file(f"segments/{n}", b"%d" % n) for n in range(200)))
        assert (sender.left_out, open_files()) == (0, before - 1)
        assert [data for _, data, _ in map(content, unpacked(pair[0].fileno()))] == [b"%d" % n for n in range(200)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_files() == before - 1


@pytest.mark.root
def test_parcel_holds_as_many_files_as_a_step_may_have(pair: Pair) -> None:
    """Beyond RLIMIT_NOFILE, only root may have so many descriptors in flight."""
    sender = ParcelSender(pair[1].fileno())
    before = open_files()
    for n in range(4096):
        sender.put(file(f"segments/{n}", b"%d" % n))
    assert open_files() < before + parcel.BATCH
    sender.close()
    pair[1].close()
    assert sender.left_out == 0
    assert sum(1 for _ in map(content, unpacked(pair[0].fileno()))) == 4096


def test_what_does_not_fit_is_counted_and_nothing_before_it_is_lost(pair: Pair) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
    sender = sent(pair, *(text(str(n), b"%d" % n) for n in range(200)))
    found = [data for _, data, _ in map(content, unpacked(pair[0].fileno()))]
    assert 0 < sender.left_out < 200
    assert sender.why == os.strerror(11)
    assert len(found) == 200 - sender.left_out
    assert found == [b"%d" % n for n in range(len(found))]


def test_texts_are_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "TEXT_BYTES", 6)
    sent(pair, text("a", b"1234"), text("b", b"5678"))
    (_, first, whole), (_, second, cut) = map(content, unpacked(pair[0].fileno()))
    assert (first, whole, second) == (b"1234", "", b"56")
    assert "more than 6 bytes" in cut


def test_error_of_a_stream_is_raised_once_what_came_before_is_kept(pair: Pair) -> None:
    def fails() -> Iterator[bytes]:
        yield b"before"
        raise StepError("no more")

    sender = ParcelSender(pair[1].fileno())
    with pytest.raises(StepError, match="no more"):
        sender.put(Artifact(path=PurePosixPath("a"), body=fails()))
    sender.close()
    assert [content(artifact)[:2] for artifact in unpacked(pair[0].fileno())] == [("a", b"before")]


def test_parcel_of_a_worker_that_was_killed_has_what_it_sent(pair: Pair) -> None:
    """What still waits in a batch is lost; the end of the worker that hangs may stay open, too."""
    pid = os.fork()
    if pid == 0:
        sender = ParcelSender(pair[1].fileno())
        for n in range(parcel.BATCH + 3):
            sender.put(file(str(n), b"%d" % n))
        os._exit(0)
    os.waitpid(pid, 0)
    found = [data for _, data, _ in map(content, unpacked(pair[0].fileno()))]
    assert found == [b"%d" % n for n in range(parcel.BATCH)]


def test_files_that_nobody_takes_are_closed(pair: Pair) -> None:
    sent(pair, *(file(str(n), b"x") for n in range(10)))
    before = open_files()
    artifacts = unpacked(pair[0].fileno())
    content(next(artifacts))
    artifacts.close()  # type: ignore[attr-defined]
    assert open_files() == before
