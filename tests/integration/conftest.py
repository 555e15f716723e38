"""A directory on a disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory on a disk; /tmp may be a tmpfs, /var/tmp is not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="collector-test-") as path:
        yield Path(path)
