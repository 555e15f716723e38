"""What a worker does with incidents that a killed run left behind: it seals them, each by itself."""

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
from collector.runner.protocol import Done, Recover

UNSEALABLE = "its evidence is in its .partial directory; the next start tries again"

RECOVER_PAUSE_S = 0.05

SHOWN = 10
PROBLEM_LENGTH = 500
"""How many problems the reply lists, and characters of each; it is limited in length."""


def recover(job: Recover) -> Done:
    if not os.path.isdir(job.archive):
        refuse_memory(job.archive)  # it is about to be created, for the ledger
    sealed: dict[str, IncidentState] = {}
    bad: dict[str, str] = {}
    until_s = time.monotonic() + job.wait_s
    with Store(job.archive) as store:
        bad |= store.clear_unopened()
        clock.advance(store.fd, seen=store.last_number())  # a power cut may have taken what was not synced
        while left := [incident for incident in store.unfinished() if incident not in bad]:
            for incident in left:
                _seal_one(store, incident, job.now_s, sealed, bad)
            if time.monotonic() >= until_s:
                break
            time.sleep(RECOVER_PAUSE_S)
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    problems = [printable(problem, limit=PROBLEM_LENGTH) for problem in [*bad.values()][:SHOWN]]
    return Done(sealed=sealed, reason="; ".join(problems) + more, hint=UNSEALABLE if bad else None)


def _seal_one(store: Store, incident: str, now_s: float, sealed: dict[str, IncidentState], bad: dict[str, str]) -> None:
    """Seal an incident that no run is working on; report one that cannot be sealed, and leave it as it is."""
    try:
        with store.claimed(incident + layout.PARTIAL) as ours:
            if ours:
                # If the run was killed between manifest and rename, it had finished: the manifest says how.
                sealed[incident] = seal(store, incident, ended_s=now_s, interrupted=True).state
    except (ArchiveError, OSError, MemoryError, ValueError) as exc:
        bad[incident] = f"{incident} cannot be sealed: {exc}"
