"""
Waiting for a core that was announced: the kernel writes a large one for minutes, and holds its process meanwhile.

Evidence of the process is collected first, and the core joins the same incident when it is complete.
"""

from __future__ import annotations

import os
import time

from collector.host.files import Host
from collector.host.procfs import Process
from collector.model.artifact import CoreUse
from collector.model.case import awaits_core, merge
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.pipeline.steps import Step
from collector.runner.coroutine import Task, sleep
from collector.runner.incident_run import IncidentRun

STORING_S = 5.0
"""How long a handler may take to sync and rename a core once its process is gone. Segments are copied after that: a
service that was restarted initialises those of the same name again, so this is not longer."""

CHECK_S = 0.1


def is_awaited(run: IncidentRun) -> bool:
    """Return whether a core of this crash is on its way to a watched directory."""
    return run.settings.watches_cores and awaits_core(merge(run.markers()))


def needs_core(step: Step, *, process: bool) -> bool:
    """Return whether a step needs the core itself, or its list of mapped files if no *process* is there to ask."""
    use = step.collector.footprint.core
    return use is CoreUse.ITSELF or (use is CoreUse.MAPPINGS and not process)


def has_memory(marker: Marker) -> bool:
    """Return whether the crashed process is still there with its memory, as ``/proc/PID`` shows it."""
    return _is_there(marker, threads=False)


def is_dumping(marker: Marker) -> bool:
    """Return whether the crashed process is still there, be it without its leader, which a thread outlives."""
    return _is_there(marker, threads=True)


def _is_there(marker: Marker, *, threads: bool) -> bool:
    who = marker.process
    if who is None or who.start_time_ticks is None:
        return False
    try:
        with Process(Host(), who.pid, who.start_time_ticks) as process:
            if process.stat().state not in "ZX":
                return True
            return threads and len(os.listdir(Host().path(f"/proc/{who.pid}/task"))) > 1
    except (OSError, StepError):
        return False


def wait_for_core(run: IncidentRun) -> Task[None]:
    """Wait until the core is there, or will not come; the incident's own time does not go on."""
    since_s = gone_s = time.monotonic()
    while is_awaited(run) and not run.out_of_time() and time.monotonic() - gone_s < STORING_S:
        yield from sleep(CHECK_S)
        if is_dumping(merge(run.markers())):
            gone_s = time.monotonic()
    run.deadline_s += time.monotonic() - since_s
