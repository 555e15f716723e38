"""Which crashes a configured trigger would not report, told from its options alone. Pure."""

from __future__ import annotations

import os.path

from collector.model.identity import Identity
from collector.model.marker import Marker
from collector.model.signals import signal_name
from collector.triggers.base import Trigger
from collector.triggers.core_files import CoreFiles
from collector.triggers.exit_files import ExitFiles
from collector.triggers.kernel_cores.kernel_cores import KernelCores
from collector.triggers.kernel_log import KernelLog
from collector.triggers.memory_pressure import MemoryPressure
from collector.triggers.notify import Notify
from collector.triggers.process_exits import ProcessExits


def why_unseen(trigger: Trigger, marker: Marker, *, event: str | None = None, file: str | None = None) -> str | None:
    """
    Return why *trigger* would not report the crash that *marker* describes; ``None`` if it would, or may.

    Args:
        trigger: With its options.
        marker: What is known of the crash; rules with globs are met only by what it says.
        event: The kernel's event, for `kernel_log`.
        file: The path of the core or the exit file, for `core_files` and `exit_files`.
    """
    if isinstance(trigger, ProcessExits):
        return _of_exits(trigger, marker)
    signals = trigger.knows.signals
    if marker.signal is not None and signals is not None and marker.signal not in signals:
        return f"it does not report a death by {signal_name(marker.signal)}"
    if isinstance(trigger, (CoreFiles, ExitFiles)):
        return _of_file(trigger, file) or _of_owner(trigger.unprivileged, marker.uid)
    return _of_events(trigger, marker, event)


def _of_events(trigger: Trigger, marker: Marker, event: str | None) -> str | None:
    """Return why a trigger without files would not report a crash."""
    match trigger:
        case KernelLog() if event is not None and event not in trigger.events:
            return f"its events are {', '.join(trigger.events)}, not {event}"
        case KernelCores() if any(rule.refuses(_identity(marker)) for rule in trigger.refuse):
            return "one of its `refuse` rules is about this process"
        case Notify() if not trigger.group and marker.uid not in trigger.uids:
            return _of_owner(trigger.unprivileged, marker.uid)
        case MemoryPressure() if marker.signal is not None or marker.comm or marker.exe:
            return "memory pressure is about no process"
    return None


def _of_exits(trigger: ProcessExits, marker: Marker) -> str | None:
    if marker.signal is None and marker.exit_status is None:
        return None
    number, status, who = marker.signal or 0, marker.exit_status or 0, _identity(marker)
    if any(rule.is_crash(number, status, who, rule.numbers) for rule in trigger.rules):
        return None
    how = signal_name(number) if number else f"status {status}"
    return f"none of its rules is about an end by {how} of {marker.comm or marker.exe or marker.unit or 'this process'}"


def _identity(marker: Marker) -> Identity:
    """Return what rules with globs look at."""
    return Identity(
        pid=0, tgid=0, comm=marker.comm or "", start_ticks=None, parent=0, uid=marker.uid, exe=marker.exe,
        unit=marker.unit,
    )  # fmt: skip


def _of_owner(unprivileged: str, uid: int | None) -> str | None:
    return f"it refuses what is uid {uid}'s" if uid and unprivileged == "refuse" else None


def _of_file(trigger: CoreFiles | ExitFiles, file: str | None) -> str | None:
    """Return why a file is not watched."""
    if file is None:
        return None
    directory, name = os.path.split(file)
    if not trigger.files.reaches(directory):
        return f"it watches {', '.join(trigger.paths)}, not {directory}"
    if (excluded := trigger.files.excluded_by(name)) is not None:
        return f"{name} is excluded by {excluded}"
    return None if trigger.files.takes(name) else f"{name} matches none of {', '.join(trigger.match)}"
