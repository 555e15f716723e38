"""What a worker does to hand an incident over: it runs the operator's program once, and records what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from msgspec.structs import replace

from collector.archive import directory, handover
from collector.archive.read import ArchiveReader
from collector.host.clock import boot_id
from collector.host.command import Command, kill_group
from collector.model.errors import ArchiveError
from collector.model.handover import HandoverProcess, HandoverRecord, HandoverSettings, HandoverState
from collector.model.incident import StepStatus
from collector.model.placeholders import filled_anywhere
from collector.model.text import escape_lines
from collector.runner.protocol import HandOver
from collector.runner.replies import Done
from collector.runner.reporter import Reporter

OUTPUT_BYTES = 2048
"""Of what the program prints, its end is kept."""

REAP_S = 1.0
"""How long a killed program may take to die."""

STOPPED = "the collector was stopped"
CUT_OFF = "the last try was cut off: its worker was killed"
ELSEWHERE = "another process of the collector hands it over"


def hand_over(job: HandOver, report: Reporter) -> Done:
    """
    Run the program for a sealed incident, unless it was handed over already.

    While it runs, the incident is locked, so that retention leaves it alone. The try is on disk before it begins and
    its end before the supervisor hears of it: what succeeded is not run again, whoever is killed in between.
    """
    with ArchiveReader(job.archive) as archive, directory.claimed(job.incident, archive.fd) as ours:
        record = handover.read(job.incident, archive.fd)
        if record is None or record.state is not HandoverState.WAITING or not archive.has(job.incident):
            return Done(handover=record)
        if not ours:
            return Done(status=StepStatus.FAILED, reason=ELSEWHERE)
        if record.process is not None and not _ended(record.process):
            return Done(status=StepStatus.FAILED, reason=f"process {record.process.pid} of an earlier try does not die")

        def keep(changed: HandoverRecord) -> None:
            handover.write(job.incident, changed, archive.fd)

        if record.tries > job.settings.retries:
            record = replace(record, state=HandoverState.FAILED, reason=CUT_OFF, process=None)
            keep(record)
            return Done(handover=record)
        values = {"incident": job.incident, "path": os.path.join(job.archive, job.incident)}
        record = replace(record, tries=record.tries + 1, at_s=time.time(), process=None, reason="", output="")
        keep(record)
        argv = filled_anywhere(job.settings.argv, values)
        record = _run(argv, job.settings, record, keep, lambda: STOPPED if report.stopped() else "")
        try:
            keep(record)
        except (ArchiveError, OSError) as exc:  # what has succeeded must not be run again, at least not by this daemon
            return Done(handover=record, reason=f"what came of handing it over could not be recorded: {exc}")
        return Done(handover=record)


def _ended(process: HandoverProcess) -> bool:
    """Kill what a try has left that was cut off with its worker: two at a time would do everything twice."""
    return process.boot_id != boot_id() or kill_group(process.pid, process.start_ticks, wait_s=REAP_S)


def _run(
    argv: tuple[str, ...],
    settings: HandoverSettings,
    record: HandoverRecord,
    keep: Callable[[HandoverRecord], None],
    stopped: Callable[[], str],
) -> HandoverRecord:
    """Run the program; return the record with what came of it."""
    until_s = time.monotonic() + settings.timeout_s
    try:
        command = Command(argv)
    except OSError as exc:
        return _failed(record, settings, f"{argv[0]}: {exc.strerror}")
    close_s = time.monotonic()
    try:
        if (started := command.start_ticks()) is not None:
            keep(replace(record, process=HandoverProcess(pid=command.pid, start_ticks=started, boot_id=boot_id())))
        output = command.tail(most=OUTPUT_BYTES, until_s=until_s, stopped=stopped)
        close_s = close_s if command.killed else until_s
    finally:
        command.close(close_s, reap_s=REAP_S)
    record = replace(record, exit_status=command.exit_status, output=escape_lines(output))
    if command.exit_status == 0:  # what it may have left behind is not its result
        return replace(record, state=HandoverState.DONE)
    if command.killed == STOPPED:
        return replace(record, tries=record.tries - 1, reason=STOPPED)  # it was not the program that failed
    return _failed(record, settings, command.killed or _how(command.exit_status))


def _failed(record: HandoverRecord, settings: HandoverSettings, reason: str) -> HandoverRecord:
    state = HandoverState.WAITING if record.tries <= settings.retries else HandoverState.FAILED
    return replace(record, state=state, reason=reason)


def _how(exit_status: int | None) -> str:
    if exit_status is None:
        return "it could not be killed"
    return f"it was ended by signal {-exit_status}" if exit_status < 0 else f"it exited with status {exit_status}"
