"""What a worker does with incidents that a killed run left behind: it seals those that cannot be continued."""

from __future__ import annotations

import os
import time

from collector.archive import clock, layout
from collector.archive.seal import seal
from collector.archive.store import Store
from collector.model.errors import ArchiveError
from collector.model.incident import IncidentState
from collector.model.text import printable
from collector.runner.begin_job import refuse_memory
from collector.runner.continue_job import may_continue
from collector.runner.protocol import Recover
from collector.runner.replies import Done

UNSEALABLE = "its evidence is in its .partial directory; the next start tries again"

RECOVER_PAUSE_S = 0.05

MOST_CONTINUED = 128
"""Twice as many as run at a time; others are sealed."""

SHOWN = 10
PROBLEM_LENGTH = 500
"""How many problems the reply lists, and characters of each; it is limited in length."""


def recover(job: Recover) -> Done:
    if not os.path.isdir(job.archive):
        refuse_memory(job.archive)  # it is about to be created, for the ledger
    sealed: dict[str, IncidentState] = {}
    bad: dict[str, str] = {}
    until_s = time.monotonic() + job.wait_s
    left_alone: list[str] = []
    with Store(job.archive) as store:
        bad |= store.clear_unopened()
        clock.advance(store.fd, seen=store.last_number())  # a power cut may have taken what was not synced
        while left := [one for one in _wanted(store, job) if one not in {*bad, *left_alone}]:
            for incident in left:
                try:
                    _seal_one(store, incident, job, sealed, left_alone)
                except (ArchiveError, OSError, MemoryError, ValueError) as exc:
                    bad[incident] = f"{incident} cannot be sealed: {exc}"
            if time.monotonic() >= until_s:
                break
            time.sleep(RECOVER_PAUSE_S)
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    problems = [printable(problem, limit=PROBLEM_LENGTH) for problem in [*bad.values()][:SHOWN]]
    reason = "; ".join(problems) + more
    return Done(sealed=sealed, ids=tuple(left_alone), reason=reason, hint=UNSEALABLE if bad else None)


def _wanted(store: Store, job: Recover) -> list[str]:
    return [one for one in store.unfinished() if one not in job.spare and job.only in {None, one}]


def _seal_one(
    store: Store, incident: str, job: Recover, sealed: dict[str, IncidentState], left_alone: list[str]
) -> None:
    """
    Seal an incident that no run is working on, unless it may be continued.

    Raises:
        ArchiveError, OSError, MemoryError, ValueError: If it cannot be sealed; it is left as it is.
    """
    with store.claimed(incident + layout.PARTIAL) as ours:
        if not ours:
            return
        if job.boot_id is not None and len(left_alone) < MOST_CONTINUED:
            with store.incident(incident) as fd:
                if may_continue(fd, incident, job.boot_id):
                    left_alone.append(incident)
                    return
        # If the run was killed between manifest and rename, it had finished: the manifest says how.
        sealed[incident] = seal(store, incident, ended_s=job.now_s, interrupted=True).state
