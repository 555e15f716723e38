"""A destination on a disk, and one on a fresh file system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from copying_fixtures import Destination, file_system, opened_directory


@pytest.fixture
def target(scratch: Path) -> Iterator[Destination]:
    path = scratch / "target"
    path.mkdir()
    with opened_directory(path) as directory:
        yield directory


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """A fresh ext4 of 64 MiB."""
    with file_system(scratch, "ext4", size=64 << 20) as point:
        yield point
