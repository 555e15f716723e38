"""Fixtures of the end-to-end tests; what they are made of is in `harness`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import CONFIG, HERE, Daemon, make_daemon, open_up


@pytest.fixture
def daemon_factory(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Make daemons; each is ended with the test."""
    made: list[Daemon] = []

    def make(config: str = CONFIG, *, start: bool = True) -> Daemon:
        daemon = make_daemon(tmp_path, len(made), config)
        made.append(daemon)
        if start:
            daemon.start()
        return daemon

    yield make
    for daemon in made:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


@pytest.fixture(scope="session")
def crasher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled crasher."""
    return compiled("crasher", tmp_path_factory)


@pytest.fixture(scope="session")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled actor."""
    return compiled("actor", tmp_path_factory)


def compiled(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program of this directory, where every user can run it."""
    program = tmp_path_factory.mktemp(name) / name
    subprocess.run(["gcc", "-O1", "-o", str(program), str(HERE / f"{name}.c")], check=True)
    open_up(program.parent)
    return program
