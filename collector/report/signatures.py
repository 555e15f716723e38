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


class SameCrash(NamedTuple):
    """
    What incidents of the same crash have in common.

    *by* is ``signature``, else ``crash_key``, else ``executable``; *key* is the signature itself, or stands for it.
    """

    by: str
    key: str


class _Core(msgspec.Struct, frozen=True):
    """The part of ``core.json`` by which crashes are recognized."""

    signature: str = ""
    crash_key: str = ""


def same_crash(archive: ArchiveReader | None, summary: IncidentSummary) -> SameCrash:
    """Return by what *summary* is recognized; a ``core.json`` that cannot be read, or without an *archive*, is none."""
    core = _Core() if archive is None else _core(archive, summary)
    if core.signature:
        return SameCrash("signature", core.signature)
    if core.crash_key:
        return SameCrash("crash_key", core.crash_key)
    subject = summary.exe or summary.comm or summary.unit or f"{summary.trigger}: {summary.reason}"
    return SameCrash("executable", f"{subject} {how_it_ended(summary.signal, summary.exit_status, summary.event)}")


def _core(archive: ArchiveReader, summary: IncidentSummary) -> _Core:
    if layout.is_artifact_path(summary.core):
        with contextlib.suppress(ArchiveError, MalformedError, OSError):
            return decode(directory.read(f"{summary.id}/{summary.core}", archive.fd, limit=CORE_LIMIT), _Core)
    return _Core()


@functools.lru_cache(maxsize=256)
def how_it_ended(signal: int | None, exit_status: int | None, event: str) -> str:
    """Return ``SIGSEGV``, ``exit 3`` or the event of somebody whom neither ended; ``-`` if none is known."""
    if signal is not None:
        return signal_name(signal)
    return f"exit {exit_status}" if exit_status is not None else event or "-"
