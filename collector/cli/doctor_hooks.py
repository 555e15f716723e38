"""Whether systemd tells the collector of services that fail: the units that call ``collector notify``."""

from __future__ import annotations

import re

from collector.host.conf_directories import ROOTS, lines_of, names_in
from collector.host.files import Host

HOOK = re.compile(r"ExecStopPost=.*\bcollector notify\b|OnFailure=.*\bcollector-notify@")
MOST_FILES = 2000
"""Unit files that are looked into; a large server has some 600."""


def reports_failures(host: Host) -> bool:
    """Return whether any service has a hook that reports its failure."""
    files = [file for root in ROOTS for file in _units(host, f"{root}/systemd/system")]
    return any(HOOK.search(line) for _, line in lines_of(host, files[:MOST_FILES]))


def _units(host: Host, directory: str) -> list[str]:
    """Return the services of a directory, and their drop-ins first: that is where hooks are."""
    names = names_in(host, directory)
    below = [f"{directory}/{name}" for name in names if name.endswith("service.d")]
    drop_ins = [f"{one}/{name}" for one in below for name in names_in(host, one) if name.endswith(".conf")]
    return drop_ins + [f"{directory}/{name}" for name in names if name.endswith(".service")]
