"""Which directories systemd-tmpfiles cleans up. Source: tmpfiles.d(5), "Age"."""

from __future__ import annotations

import fnmatch
from pathlib import PurePosixPath

from collector.host.conf_directories import conf_files, lines_of
from collector.host.files import Host

AGEING = frozenset("dDeqQvC")
"""Types of lines whose age counts."""

KEEPING = frozenset("xX")
AGE = 5


def cleaned_up_by(host: Host, directory: str) -> str | None:
    """Return the file by which old files in *directory* are removed; ``None`` if there is none."""
    levels = [str(level) for level in (PurePosixPath(directory), *PurePosixPath(directory).parents)]
    found: dict[str, str] = {}
    for file, line in lines_of(host, conf_files(host, "tmpfiles.d")):
        fields = line.split()
        if len(fields) < 2:
            continue
        path = fields[1].rstrip("/") or "/"
        if fields[0][0] in KEEPING and any(fnmatch.fnmatchcase(level, path) for level in levels):
            return None
        if fields[0][0] in AGEING:
            aged = len(fields) > AGE and fields[AGE] != "-"
            found.setdefault(path, file if aged else "")  # of two lines for a path, the first counts
    return next(
        (file for path, file in found.items() if file and any(fnmatch.fnmatchcase(x, path) for x in levels)), None
    )
