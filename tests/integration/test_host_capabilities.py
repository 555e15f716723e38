"""Capabilities that are set aside, in a process of the test's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from collector.host.capabilities import CHECKPOINT_RESTORE, SYS_ADMIN, set_aside, use, using
from collector.host.own_procfs import Procfs

def effective():
    lines = dict(line.split(":\\t", 1) for line in open("/proc/thread-self/status"))
    return [int(lines["CapEff"], 16) >> number & 1 for number in (SYS_ADMIN, CHECKPOINT_RESTORE)]

print(effective())
set_aside(SYS_ADMIN, CHECKPOINT_RESTORE)
print(effective())
try:
    with using(SYS_ADMIN):
        print(effective())
        raise OSError
except OSError:
    print(effective())
try:
    Procfs.own().close()
except PermissionError:
    print("denied")
print(effective())
use(SYS_ADMIN)
print(effective())
"""


def run(*prefix: str) -> list[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
    ).stdout.splitlines()


@pytest.mark.root
def test_capabilities_that_are_set_aside_come_back_for_a_block_and_for_good() -> None:
    """A private procfs takes up the one that it needs itself, and leaves it as it was."""
    assert run() == ["[1, 1]", "[0, 0]", "[1, 0]", "[0, 0]", "[0, 0]", "[1, 0]"]


@pytest.mark.root
def test_capabilities_that_are_not_permitted_stay_away() -> None:
    """Without them nothing is changed, and nothing fails but what needs them."""
    prefix = ["setpriv", "--bounding-set=-sys_admin,-checkpoint_restore", "--inh-caps=-all"]
    assert run(*prefix) == ["[0, 0]", "[0, 0]", "[0, 0]", "[0, 0]", "denied", "[0, 0]", "[0, 0]"]
