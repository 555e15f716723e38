"""Which uids belong to which user: ``/etc/subuid``."""

from __future__ import annotations

import pwd

from collector.host.files import Host
from collector.model.owners import Owners, SubordinateUids

SUBUID = "/etc/subuid"
LIMIT = 1 << 20


def owners(host: Host, units: frozenset[str] = frozenset()) -> Owners:
    """
    Return the users of the machine, as ``/etc/subuid`` has them; a line that cannot be read is left out.

    Args:
        host: Gives access to the file.
        units: Those that the configuration protects.
    """
    try:
        text = host.read(SUBUID, limit=LIMIT)
    except OSError:
        text = b""
    found = (_parse(line) for line in text.decode("utf-8", "surrogateescape").split("\n"))
    return Owners(subordinate=tuple(one for one in found if one is not None), units=units)


def _parse(line: str) -> SubordinateUids | None:
    """Parse ``NAME-OR-UID:FIRST:COUNT``."""
    try:
        name, first, count = line.strip().split(":")
        uid = int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
        return SubordinateUids(first=int(first), count=int(count), uid=uid)
    except (ValueError, KeyError, UnicodeError):
        return None
