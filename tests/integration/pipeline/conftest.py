"""Warm workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from collector.pipeline.pool import Pool
from collector.pipeline.worker import Settings


@pytest.fixture
def pool() -> Iterator[Pool]:
    opened = Pool(2, Settings())
    opened.fill()
    yield opened
    opened.close()
