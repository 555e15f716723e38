"""What is recorded of each ruling about a marker: in the ledger, the counters, the limits and the log."""

from __future__ import annotations

from dataclasses import dataclass, field

from collector.archive.ledger import Ledger
from collector.daemon.counters import Counters
from collector.daemon.crash_fields import crash_fields
from collector.daemon.holding import Holding
from collector.daemon.journal import get_logger
from collector.daemon.limits import Limits
from collector.host.clock import boot_s
from collector.model.case import Case, Fate
from collector.model.marker import Marker
from collector.model.ruling import Ruling
from collector.model.shares import PerMinute

LINES_PER_MINUTE = 600
"""Beyond his share of these, an owner's markers are counted in the log, too: the first user has 150, root 300."""

DRAINED = "the collector is drained"

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RulingRecord:
    """Tells all that must know of a ruling; a crashed process that is not needed any more is let go."""

    ledger: Ledger
    counters: Counters
    limits: Limits
    holding: Holding
    _lines: PerMinute = field(default_factory=lambda: PerMinute(LINES_PER_MINUTE))

    def enter(self, number: int, marker: Marker, ruling: Ruling, *, owner: str, may_begin: bool) -> None:
        """
        Record the ruling about a marker.

        Args:
            number: Of its row in the ledger.
            owner: Who pays for its line in the log.
            may_begin: Whether its case need not wait for the end of a drain.
        """
        case = ruling.case.id if ruling.case is not None else None
        self.ledger.decide(number, ruling.fate, reason=ruling.reason, case=case)
        self.counters.decided(marker.trigger, ruling.fate)
        if ruling.again is not None and ruling.case is not None:
            self._enter_again(ruling.case, ruling.again)
        self.holding.ruled(marker, ruling)
        if not may_begin:
            self.holding.refuse(marker, DRAINED)
        for displaced in ruling.displaced:
            self.counters.decided(displaced.trigger, Fate.SUPPRESSED)
            self.ledger.decide(displaced.number, Fate.SUPPRESSED, reason=displaced.reason)
            self.limits.reached(displaced.limit, displaced.owner)
        if ruling.displaced:
            self.holding.tidy()
        if ruling.limit and ruling.fate is not Fate.HELD:  # that one may still be collected
            self.limits.reached(ruling.limit, ruling.owner)
        if self._lines.take(owner, boot_s()):
            _log(marker, ruling)
        else:
            self.limits.reached("log lines", owner)

    def _enter_again(self, case: Case, ruling: Ruling) -> None:
        """Record another ruling about a case, whose witness told whose crash it is."""
        self.ledger.decide(case.id, ruling.fate, reason=ruling.reason, case=case.id)
        if ruling.limit and ruling.fate is not Fate.HELD:
            self.limits.reached(ruling.limit, ruling.owner)
        if not ruling.fate.open:
            self.counters.decided(case.markers[0].trigger, ruling.fate)
            self.holding.tidy()


def _log(marker: Marker, ruling: Ruling) -> None:
    write = log.warning if ruling.fate is Fate.REFUSED else log.info
    write(
        "marker.ruled",
        fate=str(ruling.fate),
        trigger=marker.trigger,
        core=marker.core.path if marker.core else None,
        reason=ruling.reason or marker.reason,
        **{"pid": None, "comm": None, "uid": None} | crash_fields(marker),
    )
