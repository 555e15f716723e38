"""`collector show --stacks` on incidents of real crashes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from crashes import archive_core, kernel_core
from harness import COLLECTOR, NOBODY, as_nobody, open_up
from machine import compiled

pytestmark = [pytest.mark.root, pytest.mark.needs("gcc", "zstd")]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the incidents of a core in `plain`, and of the same, compressed, in `packed`."""
    room = tmp_path_factory.mktemp("stacks")
    program = compiled(Path(__file__).parents[1] / "inlined.c", room, "-O2", "-g")
    core = kernel_core([program], room / "core")
    subprocess.run(["zstd", "-q", core], check=True)
    archive_core(core, room / "plain")
    archive_core(room / "core.zst", room / "packed")
    return room


def stacks(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [*COLLECTOR, "show", "latest", "--stacks", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


def test_show_stacks_names_the_frames(room: Path) -> None:
    """As text and as JSON, from a compressed core too."""
    shown = stacks("--archive", room / "plain")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.startswith(b"1 thread, by libdw\n\nthread ")
    assert b", which crashed\n  #0   price_order at " in shown.stdout
    found = json.loads(stacks("--json", "--archive", room / "packed").stdout)
    assert [frame["function"] for frame in found["threads"][0]["frames"][:2]] == ["price_order", "match_book"]


def test_show_stacks_needs_no_root(room: Path, tmp_path: Path) -> None:
    """In an archive of one's own; what unwinds then has no more rights than its caller."""
    shutil.copytree(room / "plain", tmp_path / "archive")
    for path in (tmp_path / "archive", *(tmp_path / "archive").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    open_up(tmp_path)
    open_up(room)
    command = [*as_nobody(tmp_path / "layers"), *COLLECTOR, "show", "latest", "--stacks", "--archive"]
    shown = subprocess.run([*command, str(tmp_path / "archive")], capture_output=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"#0   price_order at " in shown.stdout


@pytest.mark.parametrize(("step", "why"), [("memory", b"has no core"), ("core", b"the marker has no core file")])
def test_show_stacks_of_an_incident_without_a_core_says_so(tmp_path: Path, step: str, why: bytes) -> None:
    """A run by hand has none; one of which no step applies ends with 3."""
    run = [*COLLECTOR, "run", "--now", "--only", step, "--archive", str(tmp_path / "archive")]
    assert subprocess.run(run, capture_output=True, check=False).returncode in {0, 3}
    shown = stacks("--archive", tmp_path / "archive")
    assert (shown.returncode, shown.stdout) == (73, b"")
    assert why in shown.stderr
