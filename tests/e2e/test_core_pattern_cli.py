"""`collector core-pattern`: what is in force, and what a daemon that is gone has left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from machine import core_pattern, need
from systemd_machine import COLLECTOR

from collector.host.core_pattern_owner import CORE_PATTERN, has_coredump_socket
from collector.host.core_pattern_setting import CorePatternRequest, ask, set_core_pattern
from collector.host.files import Host

pytestmark = pytest.mark.root
FILES = "original.%P"


class Left:
    """A runtime directory whose daemon is gone."""

    def __init__(self, directory: Path) -> None:
        self.runtime = directory / "run"
        self.runtime.mkdir(mode=0o700)
        self._config = directory / "collector.yaml"
        self._config.write_text(f"version: 1\nruntime: {{directory: {self.runtime}}}\n", encoding="utf-8")
        self.wanted = CorePatternRequest(pattern=f"@@{self.runtime}/cores.sock")

    def collector(self, verb: str, *options: str, status: int = 0) -> dict[str, Any]:
        command = [str(COLLECTOR), verb, "--config", str(self._config), "--json", *options]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == status, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def left() -> Iterator[Left]:
    need("root")
    if not has_coredump_socket(os.uname().release):
        pytest.skip("needs Linux 6.17")
    directory = Path(tempfile.mkdtemp(prefix="pattern-", dir="/tmp"))
    try:
        with core_pattern(FILES):
            yield Left(directory)
    finally:
        shutil.rmtree(directory)


def in_force() -> str:
    return Path(CORE_PATTERN).read_text(encoding="utf-8").rstrip("\n")


def test_core_pattern_shows_the_owner_and_what_was_there(left: Left) -> None:
    found = left.collector("core-pattern")
    assert (found["pattern"], found["owner"], found["before"]) == (FILES, None, None)
    set_core_pattern(Host(), str(left.runtime), left.wanted)
    found = left.collector("core-pattern")
    assert (found["owner"], found["is_collectors"], found["before"]) == ("the collector", True, FILES)
    assert in_force() == left.wanted.pattern


def test_core_pattern_of_a_killed_daemon_is_put_back_once(left: Left) -> None:
    set_core_pattern(Host(), str(left.runtime), left.wanted)
    assert left.collector("core-pattern", "--put-back")["put_back"] is True
    assert in_force() == FILES
    assert left.collector("core-pattern", "--put-back")["put_back"] is False


def test_core_pattern_is_put_back_when_systemd_does_not_answer(left: Left) -> None:
    """Better a crash that goes elsewhere than one that goes nowhere: no systemd runs here, or none has that unit."""
    set_core_pattern(Host(), str(left.runtime), left.wanted)
    assert (
        left.collector("core-pattern", "--put-back", "--unless-started", f"absent-{os.getpid()}.service")["put_back"]
        is True
    )


def test_core_pattern_is_set_as_asked(left: Left) -> None:
    """For a daemon whose mount namespace is not the first one: the kernel takes no socket from it."""
    left.collector("core-pattern", "--as-asked")
    assert in_force() == FILES
    ask(str(left.runtime), left.wanted)
    left.collector("core-pattern", "--as-asked")
    assert in_force() == left.wanted.pattern
    ask(str(left.runtime), CorePatternRequest(pattern=""))
    left.collector("core-pattern", "--as-asked")
    assert in_force() == FILES


@pytest.mark.parametrize("pattern", ["|/bin/sh -c id", "@@/elsewhere/cores.sock", "@@{run}/../cores.sock", "core.%p"])
def test_core_pattern_is_not_set_to_what_leads_elsewhere(left: Left, pattern: str) -> None:
    """Whoever breaks into the daemon must not get a program of his own started outside of its sandbox by that."""
    ask(str(left.runtime), CorePatternRequest(pattern=pattern.format(run=left.runtime), takeover=True))
    assert left.collector("core-pattern", "--as-asked", status=73)["error"]
    assert in_force() == FILES


def test_request_of_somebody_else_is_ignored(left: Left) -> None:
    ask(str(left.runtime), left.wanted)
    os.chown(left.runtime / "core_pattern.wanted", 65534, 65534)
    left.collector("core-pattern", "--as-asked")
    assert in_force() == FILES


def test_socket_is_refused_by_the_kernel_outside_of_the_first_mount_namespace(left: Left) -> None:
    """What all of this is for; once it is allowed, the units can go."""
    write = f"unshare -m sh -c 'echo {left.wanted.pattern} > {CORE_PATTERN}'"
    assert subprocess.run(["sh", "-c", write], capture_output=True, check=False).returncode != 0
    wait_for(lambda: in_force() == FILES, "the original")


@pytest.mark.parametrize("words", [("--as-asked", "--put-back"), ("--unless-started", "x.service")])
def test_core_pattern_refuses_words_that_do_not_go_together(left: Left, words: tuple[str, ...]) -> None:
    assert left.collector("core-pattern", *words, status=64)["error"]
