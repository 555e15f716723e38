"""Handing an archived incident over to a program of the operator's: the settings, and what became of it."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from collector.model.constrained import Deadline
from collector.model.placeholders import check_anywhere
from collector.model.units import Seconds

PLACEHOLDERS = ("incident", "path")
SLOWER = 5
"""Each pause before a retry is so many times as long as the one before."""


class HandoverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What runs for each incident once it is archived.

    Args:
        argv: Absolute path of a program, then its arguments; there is no shell. ``{incident}`` becomes the
            incident's id, ``{path}`` its directory. Empty: nothing runs.
        timeout_s: The program is killed after this time, and that counts as a failure.
        retries: How often it is run again for an incident for which it failed.
        retry_after_s: Pause before the first retry; each further one is five times as long.
    """

    argv: tuple[str, ...] = ()
    timeout_s: Deadline = msgspec.field(name="timeout", default=Seconds(60.0))
    retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    retry_after_s: Deadline = msgspec.field(name="retry_after", default=Seconds(300.0))

    def __post_init__(self) -> None:
        if not self.argv:
            return
        if not self.argv[0].startswith("/"):
            raise ValueError(f"argv begins with the absolute path of a program, not {self.argv[0]!r}")
        check_anywhere(self.argv, PLACEHOLDERS)

    def pause_s(self, tries: int) -> float:
        """Return the pause after so many *tries* that failed."""
        return float(self.retry_after_s) * SLOWER ** min(tries - 1, 10) if tries else 0.0


class HandoverState(enum.StrEnum):
    """*waiting* before the first try and between two; *failed* once there is no retry left."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


class HandoverProcess(msgspec.Struct, frozen=True, kw_only=True):
    """The program of a try that goes on: another process of that number has another start time or boot."""

    pid: int
    start_ticks: int
    boot_id: str


class HandoverRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    ``ID.handover``: what became of handing an incident over.

    *tries* are those that were begun; *at_s*, wall clock since the epoch, and what follows are the last one's.
    *exit_status* is negative for a signal, ``None`` if the program did not start or could not be killed. *reason* says
    why it failed; *output* is the end of what it printed. *process* is set while it runs.
    """

    state: HandoverState = HandoverState.WAITING
    tries: int = 0
    at_s: float = 0.0
    exit_status: int | None = None
    reason: str = ""
    output: str = ""
    process: HandoverProcess | None = None


class WaitingHandover(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that is still to be handed over, whose it is, and how often that was tried."""

    incident: str
    owner: str
    tries: int = 0
