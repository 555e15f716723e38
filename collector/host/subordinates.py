"""
Which uids belong to which user: ``/etc/subuid``.

Names are looked up in ``/etc/passwd`` itself: getpwnam(3) may ask a directory server, and load libraries, which a
worker must not wait for in a crash. A user who is known only to such a server is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from collector.host.files import Host
from collector.model.owners import Owners, SubordinateUids

SUBUID, PASSWD = "/etc/subuid", "/etc/passwd"
LIMIT = 1 << 20


def owners(host: Host, units: frozenset[str] = frozenset()) -> Owners:
    """
    Return the users of the machine, as ``/etc/subuid`` has them; a line that cannot be read is left out.

    Args:
        host: Gives access to the files.
        units: Those that the configuration protects.
    """
    if not (lines := list(_lines(host, SUBUID))):
        return Owners(units=units)
    uids = {fields[0]: fields[2] for fields in _lines(host, PASSWD) if len(fields) > 2}
    found = (_parse(fields, uids) for fields in lines)
    return Owners(subordinate=tuple(one for one in found if one is not None), units=units)


def _lines(host: Host, path: str) -> Iterator[list[str]]:
    try:
        text = host.read(path, limit=LIMIT)
    except OSError:
        return
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        if line:
            yield line.strip().split(":")


def _parse(fields: list[str], uids: dict[str, str]) -> SubordinateUids | None:
    """Parse ``NAME-OR-UID:FIRST:COUNT``."""
    try:
        name, first, count = fields
        return SubordinateUids(first=int(first), count=int(count), uid=int(uids.get(name, name)))
    except ValueError:
        return None
