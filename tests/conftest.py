"""Skips for what a machine lacks, with the reason; and the same environment for every run."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from machine import NEEDS_ROOT, need
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

OF_A_SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "RUNTIME_DIRECTORY", "MONITOR_", "COLUMNS")

GROUPS = {
    "core_pattern": ("core_pattern", "from held import"),
    "crowd": ("crowd", "ProcessTable", "process_table", "hanging_fuse"),
}
"""Tests, by what is written in their files, that wait for one another's lock, or count one another's processes."""


def pytest_configure(config: pytest.Config) -> None:
    """Give the programs under test the same environment in a terminal, under nohup and in a service."""
    for name in [name for name in os.environ if name.startswith(OF_A_SERVICE)]:
        del os.environ[name]
    os.umask(0o022)
    os.environ.setdefault(
        "PYTEST_DEBUG_TEMPROOT", "/var/tmp"
    )  # a disk: /tmp may be a tmpfs, which no archive may lie on
    config.addinivalue_line("markers", "needs(*names): programs, and devices or files that must be readable")
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


class GroupScheduling(LoadScopeScheduling):
    """Gives the tests of one group, else those of one file, to the same one of several processes, in turn."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return group_of(self.config.rootpath / file) or file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """Not ``--dist loadgroup``, which pytest-xdist 3.8 no longer does with pytest 9.2, nor says so."""
    return GroupScheduling(config, log)


@functools.cache
def group_of(path: Path) -> str | None:
    text = path.read_text(encoding="utf-8")
    return next((group for group, words in GROUPS.items() if any(word in text for word in words)), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose markers name something that is not available."""
    if item.get_closest_marker("root") is not None:
        need("root")
    for marker in item.iter_markers("needs"):
        need(*marker.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, turn skips into failures, except those for lack of root when not run as root."""
    report = yield
    if report.skipped and os.environ.get("CI") and not (os.geteuid() and NEEDS_ROOT in str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI must not skip: {report.longrepr}"
    return report
