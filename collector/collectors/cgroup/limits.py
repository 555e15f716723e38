"""What a cgroup's files say of its limits: how near it is to each, and how often it has met it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

UNLIMITED = 1 << 60
"""v1 writes "no limit" as the largest page-aligned number, 2^63 - 4096."""
AT_LIMIT = 0.98
"""Share of a limit in use from which it counts as reached: memory is charged in batches of 64 pages per CPU."""

_HUGE = re.compile(r"(hugetlb\.[0-9]+[KMG]B\.)(?:max|limit_in_bytes)")
_NUMBER = re.compile(rb"([^ \n]+) ([0-9]+)")


class LimitFiles(NamedTuple):
    """The files of one limit; those with *events* count its hits, the first that is there does."""

    limit: str
    usage: str
    peak: str
    events: tuple[str, ...]


# The local events come first: those of v2 without `.local` count the cgroups below, too (since 5.2).
V2_MEMORY = ("memory.events.local", "memory.events")
FORKS, FORKS_LOCAL = "pids.events", "pids.events.local"
"""Without the second (v1, and before 6.11) the first counts the forks that failed here, whoever's limit it was."""
LIMITS = (
    LimitFiles("memory.max", "memory.current", "memory.peak", V2_MEMORY),
    LimitFiles("memory.high", "memory.current", "memory.peak", V2_MEMORY),
    LimitFiles("memory.swap.max", "memory.swap.current", "memory.swap.peak", ("memory.swap.events",)),
    LimitFiles("pids.max", "pids.current", "pids.peak", (FORKS_LOCAL,)),
    LimitFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes", ("memory.failcnt",)),
    LimitFiles(
        "memory.memsw.limit_in_bytes",
        "memory.memsw.usage_in_bytes",
        "memory.memsw.max_usage_in_bytes",
        ("memory.memsw.failcnt",),
    ),
)
COUNTED = {
    "memory.max": frozenset({"max", "oom"}),
    "memory.high": frozenset({"high"}),
    "memory.swap.max": frozenset({"max"}),
}
"""Of the events of v2, those that say that one limit was met; without an entry all of them do."""
FOLLOWING = {
    "memory.max": frozenset({"oom_kill", "oom_group_kill"}),
    "memory.swap.max": frozenset({"fail"}),
}
"""
What happens when it is met, but also otherwise: for want of memory in a cgroup above or on the machine, or of swap.
"""
EVENT_FILES = (
    "memory.events.local", "memory.events", "memory.swap.events", "pids.events.local", "pids.events", "misc.events",
    "cpu.stat", "memory.failcnt", "memory.memsw.failcnt", "memory.kmem.failcnt", "memory.oom_control",
)  # fmt: skip
OF_OTHER_FILES = {
    "cpu.stat": frozenset({"nr_throttled", "throttled_usec", "throttled_time"}),
    "memory.oom_control": frozenset({"under_oom", "oom_kill"}),
}
"""Of the files that hold more than events, those that are events."""


class LimitUse(msgspec.Struct, frozen=True, kw_only=True):
    """
    One limit of one cgroup.

    *limit*, *used* and *peak* are in bytes or processes, *share* is *used* of *limit*; *events* counts how often it was
    met, by the kernel's names, without zeros.
    """

    directory: str
    cgroup: str
    name: str
    limit: int
    used: int
    peak: int | None
    share: float
    at_limit: bool
    events: dict[str, int]

    def sentence(self) -> str:
        most = f", peak {self.peak}" if self.peak is not None and self.peak > self.used else ""
        counts = "".join(f", {name} {count}" for name, count in self.events.items())
        unit = "processes" if self.name.startswith("pids") else "bytes"
        return f"{self.cgroup}: {self.used} of {self.limit} {unit} allowed by {self.name}{most}{counts}"


def limits_of(directory: str, cgroup: str, texts: Mapping[str, bytes]) -> Iterator[LimitUse]:
    """Yield the limits that are set in one cgroup, given the contents of its files by name."""
    for files in (*LIMITS, *_huge(texts)):
        limit, used = _number(texts.get(files.limit)), _number(texts.get(files.usage))
        if limit is None or used is None or limit >= UNLIMITED:
            continue
        hits = _hits(files.limit, next((events_of(name, texts[name]) for name in files.events if name in texts), {}))
        share = used / limit if limit else float(used > 0 or bool(hits))  # 0 forbids, and is met by who wants any
        yield LimitUse(
            directory=directory,
            cgroup=cgroup,
            name=files.limit,
            limit=limit,
            used=used,
            peak=_number(texts.get(files.peak)),
            share=round(share, 4),
            at_limit=share >= AT_LIMIT,
            events=hits,
        )


def _hits(limit: str, events: dict[str, int]) -> dict[str, int]:
    """Return which of a cgroup's *events* are those of *limit*; none if it was not met."""
    counted = COUNTED.get(limit, frozenset(events))
    wanted = counted | FOLLOWING.get(limit, frozenset())
    return {name: count for name, count in events.items() if name in wanted} if counted & events.keys() else {}


def refused_forks(cgroup: str, texts: Mapping[str, bytes]) -> str | None:
    """Return a sentence on forks that failed in a cgroup, if this kernel does not say whose limit it was."""
    count = 0 if FORKS_LOCAL in texts else events_of(FORKS, texts.get(FORKS, b"")).get("max", 0)
    return f"{cgroup}: {count} forks refused by pids.max of this cgroup or of one above it" if count else None


def events_of(name: str, text: bytes) -> dict[str, int]:
    """Return the counters in an event file that are not zero; a failcnt has one, of that name."""
    alone = _number(text)
    if alone is not None:
        return {name.rpartition(".")[2]: alone} if alone else {}
    wanted = OF_OTHER_FILES.get(name)
    found = ((key.decode(errors="replace"), int(number)) for key, number in _NUMBER.findall(text))
    return {key: count for key, count in found if count and (wanted is None or key in wanted)}


def is_event_file(name: str) -> bool:
    return name in EVENT_FILES or (name.startswith("hugetlb.") and name.endswith((".failcnt", ".events", ".local")))


def _huge(texts: Mapping[str, bytes]) -> Iterator[LimitFiles]:
    for name in texts:
        if found := _HUGE.fullmatch(name):
            prefix = found[1]
            if name.endswith("max"):
                yield LimitFiles(name, prefix + "current", "", (prefix + "events.local", prefix + "events"))
            else:
                yield LimitFiles(name, prefix + "usage_in_bytes", prefix + "max_usage_in_bytes", (prefix + "failcnt",))


def _number(text: bytes | None) -> int | None:
    """Return the number that is all of *text*; ``None`` for any other, such as ``max``."""
    word = (text or b"").strip()
    return int(word) if word.isdigit() else None
