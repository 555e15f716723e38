"""Artifacts on a real disk, from sources that were deleted or cannot be linked."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import xxhash

from collector.archive import layout
from collector.copying.rate.limiter import Limiter
from collector.copying.rate.throttle import always_go
from collector.model.artifact import Artifact, Body, Bulk, Incoming, Instead, Method
from collector.model.copying import Advice, CopySettings, Feedback
from collector.model.errors import CopyError, StepError
from collector.runner.artifacts import Writer


@pytest.fixture
def writer(scratch: Path) -> Iterator[Writer]:
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    yield Writer(
        incident_fd=fd,
        step="core",
        copy=CopySettings(),
        reserve_bytes=0,
        ask=lambda: Feedback(Advice.GO),
    )
    os.close(fd)


@pytest.fixture
def records(writer: Writer) -> Callable[[], list[dict[str, Any]]]:
    """Returns what the journal says about each artifact."""

    def read() -> list[dict[str, Any]]:
        writer.sync()
        with open(layout.ARTIFACTS, opener=lambda name, flags: os.open(name, flags, dir_fd=writer.incident_fd)) as file:
            return [json.loads(line) for line in file]

    return read


def artifact(name: str, body: Body) -> Artifact:
    return Artifact(path=PurePosixPath(name), body=body, media="binary")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_writer_copies_a_core_that_was_deleted_before_it_could_be_linked(writer: Writer, scratch: Path) -> None:
    """systemd-tmpfiles and others delete such files; the open descriptor still has the data."""
    (scratch / "core.1").write_bytes(b"core" * 10_000)
    fd = os.open(scratch / "core.1", os.O_RDONLY)
    (scratch / "core.1").unlink()
    writer.sync()
    before = descriptors()
    writer.write(artifact("core", Bulk(fd=fd, instead=(Method.LINK, Method.REFLINK))))
    writer.sync()
    assert (scratch / "core" / "core").read_bytes() == b"core" * 10_000
    assert descriptors() == before - 1


@pytest.mark.parametrize("name", ["../out", "core"])
def test_writer_closes_the_descriptor_when_it_fails(writer: Writer, scratch: Path, name: str) -> None:
    """A worker that leaks a descriptor is replaced."""
    (scratch / "core").mkdir()
    (scratch / "core" / "core").write_bytes(b"planted")
    fd = os.open("/etc/hostname", os.O_RDONLY)
    before = descriptors()
    with pytest.raises((StepError, CopyError)):
        writer.write(artifact(name, Bulk(fd=fd, instead=(Method.LINK, Method.REFLINK))))
    assert descriptors() == before - 1
    assert (scratch / "core" / "core").read_bytes() == b"planted"


def test_writer_passes_the_configured_rate_to_streams(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`copy.rate` bounds what a collector streams as well as what it copies."""
    rates: list[float | None] = []
    monkeypatch.setattr(Limiter, "reserve", lambda self, now_s, size: rates.append(self.bound) or 0.0)
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    writer = Writer(incident_fd=fd, step="dmesg", copy=CopySettings(rate=10**9), reserve_bytes=0, ask=always_go)
    writer.write(artifact("bytes", bytes(100_000)))
    writer.write(artifact("stream", iter([bytes(2 << 20)])))
    os.close(fd)
    assert rates == [10**9] * 3


def test_writer_receives_a_core_and_records_its_holes(
    writer: Writer, records: Callable[[], list[dict[str, Any]]], scratch: Path
) -> None:
    """Its length is recorded, and how much of it is data; only that counts against the archive's size."""
    data = os.urandom(8192) + bytes(2 << 20) + b"end"
    out, sending = os.pipe()
    sender = threading.Thread(target=send, args=(sending, data))
    sender.start()
    writer.write(artifact("core", Incoming(fd=out, size_bytes=len(data))))
    sender.join()
    os.close(out)
    (record,) = records()
    assert (scratch / "core" / "core").read_bytes() == data
    assert (record["size_bytes"], record["data_bytes"], record["sparse"]) == (len(data), 8195, True)
    assert (writer.size_bytes, writer.truncated) == (8195, [])


def send(fd: int, data: bytes) -> None:
    with open(fd, "wb") as file:
        file.write(data)


def test_writer_keeps_the_reserve_free_of_cores(
    writer: Writer, records: Callable[[], list[dict[str, Any]]], scratch: Path
) -> None:
    """How long a stream will be is not known beforehand: it ends where the reserve begins."""
    writer.reserve_bytes = 1 << 62
    out, sending = os.pipe()
    os.write(sending, b"x" * 1000)
    os.close(sending)
    writer.write(artifact("core", Incoming(fd=out, instead=lambda reason, _: Instead([b"stacks"], reason))))
    os.close(out)
    (record,) = records()
    assert (scratch / "core" / "core").read_bytes() == b"stacks"
    assert "archive.reserve" in record["truncated_reason"]


def test_writer_takes_small_segments_with_their_digests(
    writer: Writer, records: Callable[[], list[dict[str, Any]]], scratch: Path
) -> None:
    """The bytes of each went through a buffer: sealing need not read them again."""
    for number in range(3):
        (scratch / "segment").write_bytes(bytes([number]) * 5000)
        writer.write(artifact(f"s{number}", Bulk(fd=os.open(scratch / "segment", os.O_RDONLY))))
    found = {record["path"]: record["digest"] for record in records()}
    assert found == {f"core/s{n}": f"xxh3_128:{xxhash.xxh3_128_hexdigest(bytes([n]) * 5000)}" for n in range(3)}
