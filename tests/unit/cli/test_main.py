"""The entry of the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_main_takes_names_for_utf8_whatever_the_locale_says(tmp_path: Path) -> None:
    """A configuration means the same files for everybody who runs it."""
    config = tmp_path / "collector.yaml"
    config.write_text(f"version: 1\narchive: {{path: {tmp_path}/größe}}\n", encoding="utf-8")
    command = [sys.executable, "-m", "collector.cli.main", "list", "--config", str(config)]
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=ascii_only, capture_output=True, check=False)
    assert "größe".encode() in done.stderr
