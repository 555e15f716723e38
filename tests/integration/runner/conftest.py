"""Warm workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from collector.pipeline.run_types import WorkerSettings
from collector.runner.pool import Pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    opened = Pool(2, WorkerSettings())
    opened.fill()
    yield opened
    opened.close()
