"""The backtrace of a crash for its story: by libdw if that takes a moment, else as it was archived."""

from __future__ import annotations

from collector.archive.read import ArchiveReader
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest
from collector.model.text import printable
from collector.report.archived_frames import archived_frame
from collector.report.core_facts import CoreFacts
from collector.report.traces import ARCHIVED, Backtraces, ThreadTrace

BRIEF_S, WHOLE_S = 1.0, 5.0
"""How long a glance, and a page, wait for libdw. What is not unwound by then is shown as it was archived."""

BRIEF_BYTES = 64 << 20
"""How long a compressed core may be, unpacked, to be unpacked for a glance: 0.1 s."""


def crash_trace(archive: ArchiveReader, manifest: Manifest, core: CoreFacts, *, brief: bool) -> Backtraces | None:
    """
    Return the threads of an incident's core, the crashed one first; ``None`` if nothing of them is known.

    Args:
        archive: The archive.
        manifest: Of the incident.
        core: What its core says.
        brief: It may take a second, and holds only the crashed thread.
    """
    known = archived_trace(core)
    if not any(record.path.endswith("/core") for record in manifest.artifacts()):
        return known
    from collector.report.archived_core import archived_core  # noqa: PLC0415 - 40 ms that an exit does not need
    from collector.report.backtraces import backtraces  # noqa: PLC0415
    from collector.report.unwinder import MAX_THREADS  # noqa: PLC0415

    try:
        with archived_core(archive, manifest.id, manifest) as opened:
            if brief and not opened.is_plain and opened.summary.size_bytes > BRIEF_BYTES:
                return known
            timeout_s, most_threads = (BRIEF_S, 1) if brief else (WHOLE_S, MAX_THREADS)
            found = backtraces(opened, timeout_s=timeout_s, most_threads=most_threads)
    except (ArchiveError, OSError):
        return known  # the damage is told with its step
    return found if found.threads else known


def archived_trace(core: CoreFacts) -> Backtraces | None:
    """Return the crashed thread's frames as they were archived with the crash."""
    if not core.frames:
        return None
    frames = tuple(map(archived_frame, core.frames[:256]))
    tid = core.crashed_thread.tid if core.crashed_thread else 0
    return Backtraces(by=ARCHIVED, threads=(ThreadTrace(tid=tid, frames=frames, ended=printable(core.frames_end)),))
