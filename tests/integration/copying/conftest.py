"""A destination on a disk, and one on a fresh file system."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from copying_fixtures import Directory, file_system, opened_directory


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory on a disk; /tmp may be a tmpfs, /var/tmp is not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="collector-test-") as path:
        yield Path(path)


@pytest.fixture
def target(scratch: Path) -> Iterator[Directory]:
    path = scratch / "target"
    path.mkdir()
    with opened_directory(path) as directory:
        yield directory


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """A fresh ext4 of 64 MiB."""
    with file_system(scratch, "ext4", size=64 << 20) as point:
        yield point
