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
    """Name, PID and signal in the list; one screen that begins with them; the end of an id is enough."""
    daemon = daemon_factory()
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        pid = Victim(crasher).die()
        (manifest,) = daemon.wait_for_incidents(1)
    (line,) = daemon.run("list", "--since", "1h", "--no-legend").stdout.splitlines()
    assert {manifest["id"], str(pid), "SIGSEGV"} <= set(line.split())
    nothing = daemon.run("list", "--since", "0.001s")
    assert (nothing.returncode, nothing.stderr) == (1, "no incident matches\n")
    shown = daemon.run("show", manifest["id"][-6:]).stdout
    lines = shown.splitlines()
    assert lines[0].startswith(f"{crasher.name}[{pid}]  SIGSEGV at 0x")
    assert max(map(len, lines)) <= 80
    assert len(lines) < 24
    assert "\nwhere    main (" in shown
    assert f"incident {manifest['id']} complete\nnext     collector debug {manifest['id'][-6:]}" in shown
    assert "core/core.json" in daemon.run("show", "--files").stdout
    assert "core/core.json" not in daemon.run("show", "latest", "memory", "--files").stdout
    core = daemon.archive / manifest["id"] / "core/core.json"
    hostile = {"path": "\x1b[2J", "size_bytes": 1, "command": "\x1b]0;owned\x07" * 99, "diagnosis": "\x1b[2J\n" * 999}
    core.write_text(json.dumps(hostile))
    again = daemon.run("show", "latest")
    assert (again.returncode, "\x1b" in again.stdout) == (0, False)
    assert max(map(len, again.stdout.splitlines())) <= 80
    core.write_text("{" * 100_000)
    assert "MISSING  core: core/core.json cannot be read" in daemon.run("show", "latest").stdout
