"""What tests of several packages need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def core_fd(tmp_path: Path) -> Iterator[int]:
    """An empty file for a core."""
    fd = os.open(tmp_path / "core", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)
