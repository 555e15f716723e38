"""Warm workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from collector.config.spec import RuntimeSettings
from collector.runner.pool import Pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    opened = Pool(2, RuntimeSettings())
    opened.fill()
    yield opened
    opened.close()
