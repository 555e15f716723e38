"""
Directories of drop-ins, as systemd reads them: by name, and one in /etc hides its namesake in /usr/lib.

Source: sysctl.d(5), tmpfiles.d(5), coredump.conf(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from collector.host.files import Host

ROOTS = ("/etc", "/run", "/usr/local/lib", "/usr/lib")
"""From the strongest to the weakest."""

FILE_BYTES = 65_536


def conf_files(host: Host, directory: str) -> list[str]:
    """Return the ``*.conf`` files of *directory*, a path below `ROOTS`, in the order in which they are read."""
    found: dict[str, str] = {}
    for root in ROOTS:
        for name in names_in(host, f"{root}/{directory}"):
            if name.endswith(".conf"):
                found.setdefault(name, f"{root}/{directory}/{name}")
    return [path for _, path in sorted(found.items())]


def lines_of(host: Host, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each line that is not empty or a comment, with its file; one that cannot be read has none."""
    for path in paths:
        try:
            text = host.read(path, limit=FILE_BYTES).decode(errors="replace")
        except OSError:
            continue
        for line in map(str.strip, text.splitlines()):
            if line and line[0] not in "#;":
                yield path, line


def names_in(host: Host, directory: str) -> list[str]:
    """Return the names in a directory; none if it cannot be read."""
    try:
        return host.listdir(directory)
    except OSError:
        return []
