"""``core_pattern`` leads to the collector while the trigger watches, and to where it led before afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from collector.host.core_pattern_owner import CORE_PATTERN
from collector.host.core_pattern_setting import CorePatternRequest, ask, asked, set_core_pattern
from collector.host.saved_core_pattern import put_back
from collector.triggers.base import TriggerContext

CHECK_S = 60.0
ASKED_S = 1.0
ANSWER_S = 5.0
"""For so long after somebody else was asked, the answer is looked for every second: it takes about 0.2 s."""


class Registration:
    """
    Sets ``core_pattern``, and ``core_pipe_limit`` for a pipe, or has them set, and puts them back.

    Args:
        ctx: The trigger's.
        takeover: Also replace a program or a socket of somebody else's.
        clock: The time in seconds.
    """

    def __init__(self, ctx: TriggerContext, *, takeover: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._host = ctx.host
        self._directory = ctx.runtime_directory
        self._descriptors = ctx.descriptors
        self._takeover = takeover
        self._wanted: CorePatternRequest | None = None
        self._asked_at_s: float | None = None
        self.check_s = CHECK_S
        """When to check again: sooner once somebody else was asked."""

    def register(self, pattern: str, pipe_limit: int | None) -> str | None:
        """
        Let the kernel hand crashes to *pattern*; for the arguments, see `CorePatternRequest`.

        Returns:
            Why it is not in force; ``None`` if it is.
        """
        self._wanted = CorePatternRequest(pattern=pattern, pipe_limit=pipe_limit, takeover=self._takeover)
        return self.check()

    def check(self) -> str | None:
        """Look again, and set it again if it was changed to a file's; return why it is not in force."""
        if self._wanted is None or self._is_left_to_successor:
            return None
        try:
            reason = set_core_pattern(self._host, self._directory, self._wanted)
        except OSError as exc:
            return self._ask(self._wanted, exc)
        if reason is None:
            self._withdraw(self._wanted)
        self._check_again()
        return reason

    def put_back(self) -> None:
        """
        Restore what was there before, if the pattern in force is still the collector's.

        Raises:
            OSError: If that is not allowed here, and nobody can be asked.
        """
        try:
            put_back(self._host, self._directory)
        except OSError:
            ask(self._directory, CorePatternRequest(pattern=""))

    def close(self) -> bool:
        """
        Put it back, unless the service manager starts a successor: then the pattern, and what it leads to, must stay.

        Whether it does is known later: if not, its unit ``collector-core-pattern-restore`` puts it back.

        Returns:
            Whether everything stays.
        """
        if self._is_left_to_successor:
            return True
        self.put_back()
        return False

    @property
    def _is_left_to_successor(self) -> bool:
        return self._descriptors is not None and self._descriptors.stopping

    def _ask(self, wanted: CorePatternRequest, exc: OSError) -> str:
        """Ask who is outside of the daemon's sandbox, once a minute; return why it is not in force."""
        problem = f"{exc.filename or CORE_PATTERN} cannot be written here ({exc.strerror})"
        now_s = self._clock()
        if self._asked_at_s is None or now_s - self._asked_at_s >= CHECK_S:
            try:
                ask(self._directory, wanted)
            except OSError as failed:
                return f"{problem}, and nobody can be asked: {failed.filename}: {failed.strerror}"
            self._asked_at_s = now_s
        self._check_again()
        return f"{problem}: collector-core-pattern.service does it, or on the host: collector core-pattern --as-asked"

    def _withdraw(self, wanted: CorePatternRequest) -> None:
        """Ask for *wanted* instead, if whom a reload has just replaced by this one has asked for something else."""
        if asked(self._directory) not in (None, wanted):
            with contextlib.suppress(OSError):
                ask(self._directory, wanted)
            self._asked_at_s = self._clock()

    def _check_again(self) -> None:
        waits = self._asked_at_s is not None and self._clock() - self._asked_at_s < ANSWER_S
        self.check_s = ASKED_S if waits else CHECK_S
