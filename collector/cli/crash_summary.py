"""What crashed, and why: told from an incident's markers and its core."""

from __future__ import annotations

from collections.abc import Iterator

from collector.archive import directory
from collector.archive.read import ArchiveReader
from collector.cli.text import printable
from collector.collectors.core.summary import CoreSummary as Core
from collector.model.case import merge
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest
from collector.model.marker import Marker
from collector.model.signals import signal_name

CORE_LIMIT = 1 << 20
SHOWN = 200
"""Maximum characters of a text that an attacker may have made long."""

DIAGNOSIS_SHOWN = 1000
"""Likewise of a diagnosis, which may name two files."""


def crash_facts(markers: tuple[Marker, ...]) -> list[str]:
    """Return one line with what all markers together say about the process."""
    marker = merge(markers)
    process = f"[{marker.process.pid}]" if marker.process else ""
    facts = [
        f"{marker.comm or ''}{process}",
        "" if marker.signal is None else f"{signal_name(marker.signal)} (signal {marker.signal})",
        "" if marker.exit_status is None else f"exit status {marker.exit_status}",
        marker.exe or "",
        "" if marker.unit is None else f"unit {marker.unit}",
    ]
    line = ", ".join(printable(fact, limit=SHOWN) for fact in facts if fact)
    return [line] if line else []


def core_facts(archive: ArchiveReader, incident: str, manifest: Manifest) -> list[str]:
    """Return lines with what the core's notes say; the file and the id in the manifest are not trusted."""
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
            core = decode(directory.read(path, fd, limit=CORE_LIMIT), Core)
    except (ArchiveError, MalformedError, OSError) as exc:
        return [printable(f"{path} cannot be read: {exc}")]
    said = [printable(core.diagnosis, limit=DIAGNOSIS_SHOWN)] if core.diagnosis else []
    return said + [printable(line, limit=SHOWN) for line in _lines(core)]


def _lines(core: Core) -> Iterator[str]:
    if not core.path:
        return
    if core.problem:
        yield core.problem
    if core.signal is not None:
        address = f" at {core.signal.fault_address}" if core.signal.fault_address else ""
        sender = f" from pid {core.signal.sender_pid}" if core.signal.sender_pid is not None else ""
        code = f" ({core.signal.code_name})" if core.signal.code_name else ""
        yield f"{core.signal.name}{code}{address}{sender}"
    if core.command or core.arguments:
        yield f"{core.command}: {core.arguments}"
    if core.threads:
        cut = ", truncated: part of its memory is missing" if core.cut_off else ""
        yield f"threads: {core.threads}, mapped files: {core.mapped_files}{cut}"
