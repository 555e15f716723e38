"""What the Tab key offers, through the protocol of bash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OLD, NEW = "20240101T000000.000000Z-aaaaaa", "20250101T000000.000000Z-bbbbbb"
CONFIG = """\
version: 1
archive: {{path: {archive}}}
triggers: [{{id: cores, type: core_files, paths: [/x], pipeline: crash}}]
pipelines:
  crash: {{steps: [{{id: memory, collector: proc_files}}, {{id: log, collector: dmesg}}]}}
  brief: {{steps: [{{id: table, collector: process_table}}]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    archive = tmp_path / "archive"
    for name in (OLD, f"{NEW}.partial", "other"):
        (archive / name / "memory").mkdir(parents=True)
    (archive / OLD / "core").mkdir()
    (archive / "ledger.sqlite").touch()
    path = tmp_path / "collector.yaml"
    path.write_text(CONFIG.format(archive=archive), encoding="utf-8")
    return path


def offered(*words: str) -> list[str]:
    """Return what bash is offered for the last of *words*; nothing may be printed beside it."""
    environ = {
        **os.environ,
        "_COLLECTOR_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["collector", *words]),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-I", "-m", "collector.cli.main"]
    done = subprocess.run(command, env=environ, capture_output=True, check=False)
    assert done.stderr == b""
    return [line.partition(",")[2] for line in done.stdout.decode().splitlines() if line]


def test_completion_offers_what_can_be_named(config: Path) -> None:
    """Incidents, the steps of one, pipelines, their steps, triggers."""
    given = ["--config", str(config)]
    assert offered(*given, "show", "") == ["latest", NEW, OLD]
    assert offered("export", *given, "2024") == [OLD]
    assert offered(*given, "show", OLD, "") == offered(*given, "show", "aaaaaa", "") == ["core", "memory"]
    assert offered(*given, "show", "latest", "") == offered(*given, "show", "bbbbbb", "") == ["memory"]
    assert offered(*given, "crashes", "--trigger", "") == ["cores"]
    assert offered("help", "config", "ch") == ["check"]
    assert offered("run", *given, "--pipeline", "") == ["crash", "brief"]
    assert offered("run", *given, "--pipeline", "brief", "--only", "") == ["table"]
    assert offered(*given, "config", "explain", "c") == ["cores"]


def test_completion_of_what_cannot_be_read_is_silent(config: Path) -> None:
    """An error message in the middle of a line that somebody types is worse than no help."""
    config.write_text("version: [", encoding="utf-8")
    assert offered("--config", str(config), "config", "explain", "") == []
    assert offered("--config", str(config.parent / "missing"), "run", "--only", "") == []
    assert offered("show", "--archive", "/proc/none", "") == []
