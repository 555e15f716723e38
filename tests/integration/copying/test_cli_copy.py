"""``collector copy``, as a user types it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from copying_fixtures import MIB, Directory, same, scattered, segment

COLLECTOR = [sys.executable, "-m", "collector.cli.main"]


def collector(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COLLECTOR, "copy", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_cli_copy_reports_all_there_is_to_know_as_json(target: Directory) -> None:
    """One document, with every figure by which a copy is judged."""
    with segment(20 * MIB + 5, pieces=scattered(20 * MIB, 4, 10_000)) as source:
        done = collector("--json", "--digest", "sha256", "--rate", "1GiB/s", source, target.path)
        copy = target.path / source.name
        assert same(source, copy)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert done.stderr == ""
    assert report["digest"] == f"sha256:{hashlib.sha256(copy.read_bytes()).hexdigest()}"
    assert {
        "method", "direct", "size_bytes", "data_bytes", "extents", "seconds", "cpu_seconds", "chunk_bytes", "writers",
        "pauses", "slow_downs", "changed", "truncated", "source",
    } <= report.keys()  # fmt: skip
    assert report["source"]["uid"] == os.geteuid()


def test_cli_copy_says_what_it_did(target: Directory) -> None:
    """For people: size, rate, method and why; no progress in a pipe."""
    with segment(3 * MIB) as source:
        done = collector(source, target.path / "copy")
    assert done.returncode == 0
    assert "3.0 MiB" in done.stdout
    assert "splice" in done.stdout
    assert done.stderr == ""


def test_cli_copy_shows_progress_on_a_terminal(target: Directory) -> None:
    """Rate and time left, while it runs."""
    ours, theirs = pty.openpty()
    with segment(8 * MIB) as source:
        done = subprocess.run(
            [*COLLECTOR, "copy", "--rate", "20MiB/s", source, target.path / "copy"],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            check=False,
        )
    os.close(theirs)
    shown = os.read(ours, 1 << 20)
    os.close(ours)
    assert done.returncode == 0
    assert b"copy" in shown
    assert b"/s" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("/nonexistent", "{target}/x"), 64, "No such file"),
        (("--rate", "fast", "{source}", "{target}/x"), 64, "adaptive"),
        (("--chunk", "1M", "{source}", "{target}/x"), 64, "MiB"),
        (("--method", "magic", "{source}", "{target}/x"), 64, "magic"),
        (("{source}", "{target}/taken"), 73, "exists"),
        (("{source}", "{target}/no/such/x"), 73, "No such file"),
        (("{source}", "/dev/shm/collector-test-copy"), 73, "tmpfs"),
    ],
)
def test_cli_copy_refuses_with_a_reason(target: Directory, arguments: tuple[str, ...], status: int, word: str) -> None:
    """The exit status for scripts, a sentence for people, no traceback for anybody."""
    (target.path / "taken").touch()
    with segment(4096) as source:
        done = collector(*(text.format(source=source, target=target.path) for text in arguments))
    assert done.returncode == status
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_cli_copy_leaves_nothing_behind_after_ctrl_c(target: Directory) -> None:
    """An interrupted copy is no file."""
    with segment(64 * MIB) as source:
        running = subprocess.Popen(
            [*COLLECTOR, "copy", "--rate", "10MiB/s", source, target.path / "copy"], stderr=subprocess.PIPE
        )
        part: Path = target.path / "copy.part"
        while not part.exists():
            assert running.poll() is None
        running.send_signal(2)
        assert running.wait(10) == 130
    assert target.names() == []
