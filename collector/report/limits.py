"""The limits of its cgroups that a crash had met, as ``cgroup.json`` has them."""

from __future__ import annotations

import msgspec

from collector.model.text import printable
from collector.report.documents import Documents
from collector.report.text import ELLIPSIS, rounded

SHOWN = 5
NAME_SHOWN = 48
"""Maximum characters of a cgroup's path, which may be 4 KiB long: its end says most."""


class LimitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Part of `collectors.cgroup.limits.LimitUse`."""

    cgroup: str
    name: str
    limit: int
    used: int
    peak: int | None = None
    at_limit: bool = False
    events: dict[str, int] = {}

    @property
    def sentence(self) -> str:
        """What was used of the limit, and how often it was met."""
        counts = "".join(f", {printable(name, limit=40)} {count}" for name, count in list(self.events.items())[:4])
        if self.name.startswith("pids"):
            used, limit = f"{self.used}", f"{self.limit} processes"
        else:
            used, limit = rounded(max(self.used, self.peak or 0)), rounded(self.limit)
        cgroup = self.cgroup if len(self.cgroup) <= NAME_SHOWN else f"{ELLIPSIS}{self.cgroup[-NAME_SHOWN:]}"
        return printable(f"{cgroup}: {used} of {limit} ({self.name[:NAME_SHOWN]}{counts})")


class _Limits(msgspec.Struct, frozen=True, kw_only=True):
    limits: tuple[LimitFacts, ...] = ()


def limits_met(documents: Documents) -> tuple[LimitFacts, ...]:
    """Return the limits that were met, the crash's own cgroup first, those that made the kernel kill before others."""
    found = documents.document("cgroup", "cgroup.json", _Limits)
    met = [limit for limit in found.limits if limit.at_limit or limit.events] if found else []
    return tuple(sorted(met, key=lambda limit: "oom_kill" not in limit.events)[:SHOWN])
