"""What crashed, of what: the first question about an incident, answered from its markers and its core."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from collector.archive import directory
from collector.archive.read import ArchiveReader, IncidentSummary
from collector.cli.text import escape_control
from collector.collectors.core.core import CoreSummary as Core
from collector.model.case import merge
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest
from collector.model.marker import Marker
from collector.model.signals import signal_name

CORE_LIMIT = 1 << 20
SHOWN = 200
"""Characters of a text that an attacker may have made long."""


def short(summary: IncidentSummary) -> str:
    """Return ``COMM[PID] SIGNAL`` as far as it is known, in printable characters."""
    pid = f"[{summary.pid}]" if summary.pid is not None else ""
    signal = f" {signal_name(summary.signal)}" if summary.signal is not None else ""
    return escape_control(f"{(summary.comm or '')[:SHOWN]}{pid}{signal}".strip())


def crash_facts(markers: tuple[Marker, ...]) -> list[str]:
    """Return one line of what all markers together know of the process."""
    marker = merge(markers)
    process = f"[{marker.process.pid}]" if marker.process else ""
    facts = [
        f"{marker.comm or ''}{process}",
        "" if marker.signal is None else f"{signal_name(marker.signal)} (signal {marker.signal})",
        "" if marker.exit_status is None else f"exit status {marker.exit_status}",
        marker.exe or "",
        "" if marker.unit is None else f"unit {marker.unit}",
    ]
    told = ", ".join(escape_control(fact[:SHOWN]) for fact in facts if fact)
    return [told] if told else []


def core_facts(archive: ArchiveReader, incident: str, manifest: Manifest) -> list[str]:
    """Return what the core's notes say, in lines; the file, and the manifest's own id, may be anybody's."""
    paths = (
        artifact.path
        for step in manifest.steps
        if step.collector == "core"
        for artifact in step.artifacts
        if artifact.path.endswith("/core.json")
    )
    path = next(paths, None)
    if path is None:
        return []
    try:
        with archive.incident(incident) as fd:
            core = msgspec.json.decode(directory.read(path, fd, limit=CORE_LIMIT), type=Core)
    except (ArchiveError, OSError, msgspec.DecodeError) as exc:
        return [escape_control(f"{path} cannot be read: {exc}")]
    return [escape_control(line) for line in _lines(core)]


def _lines(core: Core) -> Iterator[str]:
    if not core.path:
        return
    if core.problem:
        yield core.problem[:SHOWN]
    if core.signal is not None:
        address = f" at {core.signal.fault_address}" if core.signal.fault_address else ""
        sender = f" from pid {core.signal.sender_pid}" if core.signal.sender_pid is not None else ""
        code = f" ({core.signal.code_name})" if core.signal.code_name else ""
        yield f"{core.signal.name}{code}{address}{sender}"[:SHOWN]
    if core.command or core.arguments:
        yield f"{core.command}: {core.arguments}"[:SHOWN]
    if core.threads:
        cut = ", cut off: not all of its memory is there" if core.cut_off else ""
        yield f"threads: {core.threads}, mapped files: {core.mapped_files}{cut}"
