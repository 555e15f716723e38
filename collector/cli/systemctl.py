"""Asking systemd, within seconds; without it, or without an answer, nothing is known."""

from __future__ import annotations

import subprocess

SYSTEMD_TIMEOUT_S = 5.0


def ask_systemd(*arguments: str) -> str:
    """Return what ``systemctl`` prints; empty if it cannot be asked."""
    try:
        asked = subprocess.run(
            ["systemctl", *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=SYSTEMD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.decode(errors="replace")


def unit_properties(unit: str, *names: str) -> dict[str, str]:
    """Return the properties *names* of *unit*, also if there is no such unit; none if systemd does not answer."""
    shown = ask_systemd("show", f"--property={','.join(names)}", "--", unit).splitlines()
    return dict(line.split("=", 1) for line in shown if "=" in line)
