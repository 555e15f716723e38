"""The daemon, which runs at crash time, never holds what makes reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from collector.cli.main import VERBS

PACKAGE = Path(__file__).parents[2] / "collector"
DAEMONS = ("daemon", "triggers", "runner", "pipeline", "collectors", "copying", "pressure", "archive", "config", "host")


def test_daemon_imports_nothing_of_the_reports() -> None:
    """Every module that it consists of, and the verb that starts it."""
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for package in DAEMONS
        for path in sorted((PACKAGE / package).rglob("*.py"))
    ]
    start = VERBS["daemon"].partition(":")[0]
    code = (
        f"import importlib, sys\nfor name in {[start, *modules]}: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith(('collector.report', 'jinja2', 'markupsafe'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_unwinder_needs_the_standard_library_only() -> None:
    """It starts without the site's packages, so that it starts fast and an attacker finds little in it."""
    code = f"import sys; sys.path.append({str(PACKAGE.parent)!r}); import collector.report.unwinder"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd="/")
