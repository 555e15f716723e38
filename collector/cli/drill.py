"""``collector doctor --drill``: crash a process made for it, and tell what its incident has."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from collector.archive.ledger_reader import LedgerReader, LedgerRow
from collector.archive.read import ArchiveReader
from collector.cli.check import Check
from collector.cli.drill_process import COMM, Crashed, crashed
from collector.cli.text import size
from collector.daemon.messages import Status
from collector.daemon.requests import status_of
from collector.model.case import Fate
from collector.model.errors import ArchiveError, CollectorError, DeniedError, UnreachableError
from collector.model.incident import IncidentState, Manifest, StepStatus
from collector.pipeline.generation import Generation

ABOUT = "drill"
MISSING = 3
NOTICE_S = 20.0
"""A trigger notices within milliseconds; a core of a handler's may take seconds to be complete."""

END_S = 120.0
"""An incident waits at most 30 s for memory (`pressure.wait`), and its copy for another's."""

NO_LEDGER_S = 5.0
"""The same where the daemon keeps no ledger, and only its counts can tell."""

WAITS_S = 5.0
"""The same where nothing begins: a budget that is spent has room again after minutes, a drained daemon none."""

LOOK_S = 0.2
OVER = frozenset({Fate.FAILED, Fate.SUPPRESSED, Fate.REFUSED, Fate.UNATTRIBUTED})
COMING = frozenset({Fate.RECORDED, Fate.QUEUED, Fate.HELD, Fate.COLLECTED, Fate.INTERRUPTED})


def drill_checks(generation: Generation, answer: Status | CollectorError) -> Iterator[tuple[Check, int]]:
    """Yield what there is to say, and the exit status so far; *answer* is the daemon's status, or why there is none."""
    if isinstance(answer, DeniedError):
        yield Check("warning", ABOUT, f"not tried: {answer}", answer.hint), DeniedError.exit_code
        return
    if isinstance(answer, CollectorError):
        said = f"not tried, nobody would notice it: {answer}"
        yield Check("warning", ABOUT, said, answer.hint, unnoticed=True), UnreachableError.exit_code
        return
    try:
        with crashed() as process:
            said = f"process {process.pid} ({COMM}) died of {process.ended_by}"
            budgets = "it counts as one crash of root's and Python's in the budgets of `storm`"
            yield Check("ok", ABOUT, f"{said}; {budgets}"), 0
            yield from _became(generation, answer, process)
    except UnreachableError as exc:  # it ended meanwhile
        yield Check("warning", ABOUT, str(exc), exc.hint, unnoticed=True), exc.exit_code
    except (OSError, CollectorError) as exc:
        yield Check("warning", ABOUT, f"not tried: {exc}", getattr(exc, "hint", None)), MISSING


def _became(generation: Generation, before: Status, process: Crashed) -> Iterator[tuple[Check, int]]:
    """Wait, within limits, for what becomes of *process*, and yield it; *before* is the daemon's first status."""
    notice_s = NO_LEDGER_S if before.ledger_problem else NOTICE_S
    begun_s, rows = time.monotonic(), list[LedgerRow]()
    while not _is_over(rows) and time.monotonic() - begun_s < (_end_s(rows, before) if rows else notice_s):
        time.sleep(LOOK_S)
        rows = _rows(before.archive, process)
        incident = next((row.incident for row in rows if row.incident), None)
        if incident and (manifest := _sealed(before.archive, incident)) is not None:
            yield from _told(manifest, process)
            return
    if not rows:
        yield _unseen(generation, before, notice_s), MISSING
        return
    fates = "; ".join(dict.fromkeys(f"{row.trigger}: {row.fate}, {row.reason}".rstrip(", ") for row in rows))
    said = "nothing was archived" if _is_over(rows) else f"it is not archived after {_end_s(rows, before):.0f} s"
    if before.drained_s is not None:
        said = f"{said}, for the daemon is drained"
    hint = "`collector crashes` and `collector status` have more: a budget, the disk, or another incident's copy"
    yield Check("warning", ABOUT, f"it was noticed, and {said}: {fates}", hint), MISSING


def _is_over(rows: list[LedgerRow]) -> bool:
    """Return whether nothing more is to come: a marker that was collected has its incident in the archive."""
    return any(row.fate in OVER for row in rows) and not any(row.fate in COMING for row in rows)


def _end_s(rows: list[LedgerRow], before: Status) -> float:
    """Return how long to wait for the incident of what was noticed."""
    waits = before.drained_s is not None or all(row.fate == Fate.HELD for row in rows if row.fate in COMING)
    return WAITS_S if waits else END_S


def _unseen(generation: Generation, before: Status, waited_s: float) -> Check:
    """Return why the ledger has nothing of it: nobody noticed it, or there is no ledger."""
    now = status_of(generation.runtime_directory, patience_s=waited_s)
    since = {fate: count - before.fates.get(fate, 0) for fate, count in now.fates.items()}
    fates = ", ".join(f"{count} {fate}" for fate, count in since.items() if count > 0)
    if now.ledger_problem and fates:
        said = f"nothing was archived; the daemon says of all markers since: {fates}; there is no ledger to say more"
        return Check("warning", ABOUT, f"{said}: {now.ledger_problem}", "see `archive`, above, and the daemon's log")
    said = f"no trigger noticed it within {waited_s:.0f} s"
    triggers = ", ".join(now.triggers) or "none"
    return Check("warning", ABOUT, said, f"the lines above say what the triggers see: {triggers}", unnoticed=True)


def _told(manifest: Manifest, process: Crashed) -> Iterator[tuple[Check, int]]:
    """Yield what a sealed incident has and lacks."""
    noticed = ", ".join(dict.fromkeys(marker.trigger for marker in manifest.markers))
    whole = [step.id for step in manifest.steps if step.status is StepStatus.OK]
    held = size(sum(one.size_bytes for one in manifest.artifacts()))
    said = f"incident {manifest.id}, noticed by {noticed}, is {manifest.state}: {held}, {', '.join(whole) or 'nothing'}"
    lacking = [step for step in manifest.steps if not step.status.nothing_missing]
    status = 0 if manifest.state is IncidentState.COMPLETE else MISSING
    hint = f"collector show {manifest.id}"
    yield Check("warning" if status else "ok", ABOUT, said, hint if status else None), status
    if manifest.over_budget:
        yield Check("warning", ABOUT, f"without bulk, for it is over budget: {manifest.over_budget}"), status
    for step in lacking:
        yield Check("warning", ABOUT, f"{step.id} is {step.status}: {step.reason}", step.hint), status
    paths = [artifact.path for step in manifest.steps if step.collector == "core" for artifact in step.artifacts]
    if all(path.endswith("/core.json") for path in paths):  # which only says why there is no more
        yield Check("warning", ABOUT, f"no core: {_why_no_core(manifest, process)}", "see `cores`, above"), status
    for path in _remove_cores(manifest):
        yield Check("ok", ABOUT, f"removed its core from where it was dumped: {path}"), status


def _remove_cores(manifest: Manifest) -> Iterator[str]:
    """Remove the cores of a drill, of which the archive has its own: drilled daily, they would fill their directory."""
    for core in {marker.core.path: marker.core for marker in manifest.markers if marker.core is not None}.values():
        with contextlib.suppress(OSError):
            found = os.lstat(core.path)
            if (found.st_dev, found.st_ino, found.st_uid) == (core.device, core.inode, os.geteuid()):
                os.unlink(core.path)
                yield core.path


def _why_no_core(manifest: Manifest, process: Crashed) -> str:
    if process.core_limit == 0 and not process.dumped:
        return "limit 0 (ulimit -c), which the drill has from whoever called it, as services have theirs from systemd"
    steps = [step for step in manifest.steps if step.collector == "core"]
    if not steps:
        return f"the pipeline {manifest.pipeline} has no step for it"
    if not process.dumped:
        return "the kernel wrote none, or to where it could not"
    return steps[0].reason or "no trigger found it"


def _rows(archive: str, process: Crashed) -> list[LedgerRow]:
    """Return what the ledger has of *process*; nothing while there is no archive."""
    try:
        with ArchiveReader(archive) as opened, LedgerReader(opened) as ledger:
            rows = ledger.markers(since_s=process.at_s - 1, until_s=process.at_s + END_S + NOTICE_S)
            return [row for row in rows if _is_about(row, process)]
    except DeniedError:
        raise
    except ArchiveError:
        return []


def _is_about(row: LedgerRow, process: Crashed) -> bool:
    """Return whether a marker is of *process*: by its PID, or if it names none, by its name, which only drills have."""
    return row.said.comm == COMM if row.said.process is None else row.said.process.pid == process.pid


def _sealed(archive: str, incident: str) -> Manifest | None:
    try:
        with ArchiveReader(archive) as opened:
            return opened.manifest(incident) if incident in opened.names() else None
    except ArchiveError:
        return None
