"""What every test may use. Tests that need root say so; where CI is set, nothing is skipped."""

from __future__ import annotations

import os

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root where there is none; in CI that is an error, not a skip."""
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("needs root, and CI must not skip", pytrace=False)
        pytest.skip("needs root: mounts, core_pattern, cgroups")
