"""Limits that were reached: in the log once a minute each, with a count, and in `collector status`."""

from __future__ import annotations

from collections import Counter

from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.model.owners import LANE

FLUSH_S = 60.0
MAX_KNOWN = 256
OTHERS = "others"

log = get_logger()


class Limits:
    """Counts what had to be left out, by limit and by the owner who had most."""

    def __init__(self, loop: Loop) -> None:
        self._total: Counter[tuple[str, str]] = Counter()
        self._logged: Counter[tuple[str, str]] = Counter()
        loop.call_every(FLUSH_S, self.flush)

    def reached(self, limit: str, owner: str, count: int = 1) -> None:
        """Count what *owner* lost to *limit*, which is named as the operator knows it (``storm.total``)."""
        key = (limit, owner.partition(LANE)[0])
        if key not in self._total and len(self._total) >= MAX_KNOWN:
            key = (limit, OTHERS)
        first = key not in self._total
        self._total[key] += count
        if first:
            self._log(key)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """What was left out since the start, by limit and owner."""
        found: dict[str, dict[str, int]] = {}
        for (limit, owner), count in sorted(self._total.items()):
            found.setdefault(limit, {})[owner] = count
        return found

    def flush(self) -> None:
        """Log what was reached since the last time."""
        for key in self._total:
            self._log(key)

    def _log(self, key: tuple[str, str]) -> None:
        if (new := self._total[key] - self._logged[key]) > 0:
            self._logged[key] = self._total[key]
            log.warning("limit.reached", limit=key[0], owner=key[1], count=new)
