"""Artifacts on a real disk, from sources that were deleted or cannot be linked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from collector.copying.rate.limiter import Limiter
from collector.copying.rate.throttle import always_go, ignore
from collector.model.artifact import Artifact, Body, Bulk, Method
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
        progress=lambda _: None,
    )
    os.close(fd)


def artifact(name: str, body: Body) -> Artifact:
    return Artifact(path=PurePosixPath(name), body=body, media="binary")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_writer_copies_a_core_that_was_deleted_before_it_could_be_linked(writer: Writer, scratch: Path) -> None:
    """systemd-tmpfiles and others delete such files; the open descriptor still has the data."""
    (scratch / "core.1").write_bytes(b"core" * 10_000)
    fd = os.open(scratch / "core.1", os.O_RDONLY)
    (scratch / "core.1").unlink()
    before = descriptors()
    writer.write(artifact("core", Bulk(fd=fd, instead=(Method.LINK, Method.REFLINK))))
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
    writer = Writer(
        incident_fd=fd, step="dmesg", copy=CopySettings(rate=10**9), reserve_bytes=0, ask=always_go, progress=ignore
    )
    writer.write(artifact("bytes", bytes(100_000)))
    writer.write(artifact("stream", iter([bytes(2 << 20)])))
    os.close(fd)
    assert rates == [10**9] * 3
