"""By what incidents are the same crash: the signature of the core, as far as there is one."""

from __future__ import annotations

import contextlib
import functools
from typing import NamedTuple

import msgspec

from collector.archive import directory, layout
from collector.archive.read import ArchiveReader
from collector.archive.summary import IncidentSummary
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.signals import signal_name

CORE_LIMIT = 1 << 20
UNKNOWN_END = "-"


class SameCrash(NamedTuple):
    """
    What incidents of the same crash have in common.

    *by* is ``signature``, else ``crash_key``, else ``executable``; *key* is the signature itself, or stands for it.
    """

    by: str
    key: str


class SignalNumber(msgspec.Struct, frozen=True):
    """The number of the signal."""

    number: int | None = None


class CoreIdentity(msgspec.Struct, frozen=True):
    """The part of ``core.json`` by which crashes are recognized; empty if it has none, or cannot be read."""

    program: str = ""
    command: str = ""
    signal: SignalNumber | None = None

    signature: str = ""
    crash_key: str = ""


def same_crash(archive: ArchiveReader | None, summary: IncidentSummary) -> SameCrash:
    """Return by what *summary* is recognized; a ``core.json`` that cannot be read, or without an *archive*, is none."""
    core = CoreIdentity() if archive is None else core_identity(archive, summary.id, summary.core)
    if core.signature:
        return SameCrash("signature", core.signature)
    if core.crash_key:
        return SameCrash("crash_key", core.crash_key)
    subject = summary.exe or summary.comm or summary.unit or f"{summary.trigger}: {summary.reason}"
    return SameCrash("executable", f"{subject} {how_it_ended(summary.signal, summary.exit_status, summary.event)}")


def completed(archive: ArchiveReader, summary: IncidentSummary) -> IncidentSummary:
    """
    Return *summary* with what only the core knows of the program and the signal.

    Who reports a core file knows no more of it than its name and its first notes, if it is not compressed.
    """
    if not summary.core or (summary.exe and summary.comm and summary.signal is not None):
        return summary
    core = core_identity(archive, summary.id, summary.core)
    return msgspec.structs.replace(
        summary,
        exe=summary.exe or core.program or None,
        comm=summary.comm or core.command or None,
        signal=core.signal.number if summary.signal is None and core.signal else summary.signal,
    )


def core_identity(archive: ArchiveReader, incident: str, path: str) -> CoreIdentity:
    """Return by what the core of a sealed incident is recognized; *path* is that of its ``core.json``."""
    if layout.is_artifact_path(path):
        with contextlib.suppress(ArchiveError, MalformedError, OSError):
            return decode(directory.read(f"{incident}/{path}", archive.fd, limit=CORE_LIMIT), CoreIdentity)
    return CoreIdentity()


@functools.lru_cache(maxsize=256)
def how_it_ended(signal: int | None, exit_status: int | None, event: str) -> str:
    """Return ``SIGSEGV``, ``exit 3`` or the event of somebody whom neither ended; `UNKNOWN_END` if none is known."""
    if signal is not None:
        return signal_name(signal)
    return f"exit {exit_status}" if exit_status is not None else event or UNKNOWN_END
