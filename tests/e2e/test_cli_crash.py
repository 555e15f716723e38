"""`list` and `show` first say what crashed, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Daemon, Victim
from machine import core_pattern

pytestmark = pytest.mark.root


def test_list_and_show_say_first_what_crashed(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Program, PID and signal in the list; what the core says before the artifacts; the end of an id is enough."""
    daemon = daemon_factory()
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        pid = Victim(crasher).die()
        (manifest,) = daemon.wait_for_incidents(1)
    (line,) = daemon.run("list", "--since", "1h", "--no-legend").stdout.splitlines()
    assert {manifest["id"], str(pid), "SIGSEGV"} <= set(line.split())
    nothing = daemon.run("list", "--since", "0.001s")
    assert (nothing.returncode, nothing.stderr) == (1, "no incident matches\n")
    shown = daemon.run("show", manifest["id"][-6:]).stdout
    facts, _, artifacts = shown.partition("\n\n")
    assert f"crash     {crasher.name}[{pid}]" in facts
    assert "core      access at 0x" in facts
    assert "core      SIGSEGV" in facts
    assert "core      threads: 1" in facts
    assert "core/core.json" in artifacts
    core = daemon.archive / manifest["id"] / "core/core.json"
    core.write_text(json.dumps({"path": "\x1b[2J", "size_bytes": 1, "command": "\x1b]0;owned\x07" * 99}))
    again = daemon.run("show", "latest")
    assert (again.returncode, "\x1b" in again.stdout) == (0, False)
    core.write_text("{" * 100_000)
    assert "core/core.json cannot be read" in daemon.run("show", "latest").stdout
