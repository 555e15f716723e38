"""Which files a trigger takes: the watch itself, `doctor`, `config test` and the removal of cores agree about it."""

from __future__ import annotations

import pytest

from collector.model.watched_files import WatchedFiles


@pytest.mark.parametrize(
    ("path", "depth", "is_covered"),
    [
        ("/var/crash/core.1", 0, True),
        ("/var/crash/engine", 0, False),
        ("/var/crash/core.1.tmp", 0, False),
        ("/var/crash/a/core.1", 0, False),
        ("/var/crash/a/core.1", 1, True),
        ("/srv/x/cores/core.1", 0, True),
        ("/srv/x/y/cores/core.1", 0, False),
        ("/var/crashes/core.1", 0, False),
    ],
)
def test_watched_files_are_those_of_the_configuration_in_force(path: str, depth: int, is_covered: bool) -> None:
    """A configuration that names another directory since must not have cores removed from this one."""
    files = WatchedFiles(paths=("/var/crash", "/srv/*/cores"), match=("core*",), exclude=("*.tmp",), depth=depth)
    assert files.covers(path) is is_covered
