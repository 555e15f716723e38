"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from configuration import CRASHER, config_of
from debian_tree import make_tree
from harness import HERE, Daemon, make_daemon, open_up
from machine import compiled


@pytest.fixture
def daemon_factory(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Create daemons; each is killed at the end of the test."""
    made: list[Daemon] = []

    def make(config: str = config_of(), *, start: bool = True) -> Daemon:
        daemon = make_daemon(tmp_path, len(made), config)
        made.append(daemon)
        if start:
            daemon.start()
        return daemon

    yield make
    for daemon in made:
        daemon.kill()


@pytest.fixture(scope="session")
def crasher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = for_everybody("crasher", tmp_path_factory)
    return program.rename(program.with_name(CRASHER))


@pytest.fixture(scope="session")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program named like the crasher, in which another thread than the first one crashes."""
    program = for_everybody("threads", tmp_path_factory)
    return program.rename(program.with_name(CRASHER))


@pytest.fixture(scope="session")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return for_everybody("actor", tmp_path_factory)


@pytest.fixture(scope="session")
def racer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return for_everybody("racer", tmp_path_factory)


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean Debian 12, to be read only: it takes half a minute to make."""
    directory = tmp_path_factory.mktemp("debian")
    open_up(directory)
    return make_tree(directory / "tree")


def for_everybody(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program of this directory so that every user can run it."""
    program = compiled(HERE / f"{name}.c", tmp_path_factory.mktemp(name))
    open_up(program.parent)
    return program
