"""What an incident holds, and what was left of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.model.artifact import ArtifactRecord
from collector.report.core_facts import CoreFacts
from collector.report.documents import Documents
from collector.report.kept import kept

ROW = b'{"name": "engine.main", "size_bytes": 5, "artifact": "segments/0001"}\n'


def record(path: str, size_bytes: int) -> ArtifactRecord:
    return ArtifactRecord(path=path, size_bytes=size_bytes, data_bytes=size_bytes)


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Documents]:
    """A core and a segment of five bytes each."""
    (tmp_path / "core").mkdir()
    (tmp_path / "segments/segments").mkdir(parents=True)
    (tmp_path / "core/core").write_bytes(b"\x7fELF.")
    (tmp_path / "segments/segments/0001").write_bytes(b"order")
    (tmp_path / "segments/segments.jsonl").write_bytes(ROW)
    fd = os.open(tmp_path, os.O_RDONLY)
    paths = {"core/core": 5, "segments/segments.jsonl": len(ROW), "segments/segments/0001": 5}
    yield Documents(fd, (), tuple(record(path, size) for path, size in paths.items()))
    os.close(fd)


def test_kept_has_the_core_and_the_segments(documents: Documents) -> None:
    found = kept(documents, CoreFacts())
    assert (found.core, found.core_bytes) == ("core/core", 5)
    assert [segment.artifact for segment in found.segments] == ["segments/segments/0001"]
    assert not documents.problems


def test_kept_has_no_core_that_is_gone(documents: Documents, tmp_path: Path) -> None:
    """Else the screen offers to debug what is not there."""
    (tmp_path / "core/core").unlink()
    assert not kept(documents, CoreFacts()).core
    assert documents.problems == {"core": "core/core cannot be read: No such file or directory"}


def test_kept_has_no_segment_that_was_cut(documents: Documents, tmp_path: Path) -> None:
    os.truncate(tmp_path / "segments/segments/0001", 3)
    (segment,) = kept(documents, CoreFacts()).segments
    assert (segment.artifact, segment.why) == ("", "its copy is damaged")
    assert documents.problems == {"segments": "segments/segments/0001 cannot be read: it has 3 bytes instead of 5"}
