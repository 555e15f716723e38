"""Real cgroups for one test, on whichever of v1 and v2 has the controller, and processes in them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from machine import need

from collector.host.cgroup_membership import Hierarchy, hierarchies
from collector.host.files import Host

WAITS = 'echo $$ > "$0/cgroup.procs" && echo ready && read line && exec "$@"'


def hierarchy_with(controller: str) -> Hierarchy:
    """Return the hierarchy that has *controller*: of v1, or v2; empty: v2 itself. Skip the test if there is none."""
    need("root")
    for one in hierarchies(Host()):
        available = Path(one.point, "cgroup.controllers")
        if controller in one.controllers or (not one.controllers and controller in ["", *read_words(available)]):
            return one
    pytest.skip(f"needs the cgroup controller {controller!r}")


def read_words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.exists() else []


@contextmanager
def cgroups(hierarchy: Hierarchy, *names: str, controller: str = "") -> Iterator[list[Path]]:
    """Create cgroups within each other, the outermost with a name of its own; yield them and remove all of it."""
    point = Path(hierarchy.point)
    made: list[Path] = []
    try:
        for name in (f"collector-test-{os.getpid()}-{time.monotonic_ns()}.slice", *names):
            parent = made[-1] if made else point
            if controller and not hierarchy.controllers:
                (parent / "cgroup.subtree_control").write_text(f"+{controller}", encoding="utf-8")
            made.append(parent / name)
            made[-1].mkdir()
        yield made
    finally:
        for path in reversed(made):
            remove(path)


def remove(path: Path) -> None:
    """Remove a cgroup, if it is there; what is left in it moves to the root of its hierarchy."""
    point = next(parent for parent in path.parents if not (parent.parent / "cgroup.procs").exists())
    for directory, _, _ in os.walk(path, topdown=False):
        for _ in range(200):
            with suppress(OSError):
                for pid in read_words(Path(directory, "cgroup.procs")):
                    (point / "cgroup.procs").write_text(pid, encoding="utf-8")
            with suppress(OSError):
                os.rmdir(directory)
            if not os.path.isdir(directory):
                break
            time.sleep(0.01)


@contextmanager
def waiting(group: Path, *program: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process in *group*; it executes *program* once it gets a line."""
    command = ["sh", "-c", WAITS, os.fspath(group), *map(os.fspath, program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Let a process of `waiting` go on."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process is dead, and leave it a zombie."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
