"""Who is in which group: ``/etc/passwd`` and ``/etc/group``. Other sources could make the caller wait."""

from __future__ import annotations

from collections.abc import Iterator

from collector.host.files import Host

LIMIT = 1 << 20


def is_member(host: Host, uid: int, gid: int) -> bool:
    """Return whether a user is in a group; not, if these files do not say so."""
    users = [line for line in _lines(host, "/etc/passwd") if len(line) > 3 and line[2] == str(uid)]
    if any(line[3] == str(gid) for line in users):
        return True
    names = {line[0] for line in users}
    groups = (line for line in _lines(host, "/etc/group") if len(line) > 3 and line[2] == str(gid))
    return any(names & set(line[3].split(",")) for line in groups)


def _lines(host: Host, path: str) -> Iterator[list[str]]:
    """Yield the fields of each line. Source: passwd(5), group(5)."""
    try:
        text = host.read(path, limit=LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return
    for line in text.split("\n"):
        yield line.split(":")
