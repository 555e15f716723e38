"""The configuration and the archive: what keeps incidents from being archived, and what became of the last."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator

from collector.archive.read import ArchiveReader
from collector.archive.summary import IncidentSummary
from collector.cli.check import Check, Level
from collector.cli.leftovers import unfinished
from collector.cli.text import size
from collector.cli.text import when as local_time
from collector.config.load import PACKAGED
from collector.model.diagnostics import Diagnostic, Severity, errors
from collector.model.errors import ArchiveError, ConfigError, DeniedError
from collector.model.incident import IncidentState
from collector.pipeline.generation import Generation, generate, generate_leniently
from collector.pipeline.machine_facts import survey
from collector.pipeline.warnings import archive_warnings, warnings_of
from collector.triggers.registry import TRIGGERS

OLDEST_METRICS_S = 600
"""Forty times the interval at which the daemon writes the file; a disk that hangs for a minute is no fault of it."""


def configured(path: str | None) -> tuple[Generation, tuple[Check, ...]]:
    """
    Return the configuration as far as it can be read, so that a mistake stops no other check, and its mistakes.

    If nothing of it can be read, the packaged default stands for it.
    """
    try:
        found = generate_leniently(path, TRIGGERS)
    except ConfigError as exc:
        said = f"nothing of the file can be read: what follows goes by {PACKAGED}"
        return generate(None, TRIGGERS), (*_mistakes(exc.diagnostics), Check("warning", "config", said))
    return found, _mistakes(found.warnings)


def _mistakes(diagnostics: tuple[Diagnostic, ...]) -> tuple[Check, ...]:
    return tuple(
        Check("bad", "config", f"{one.mark}: {one.message}", one.hint or "`collector config check` has them all")
        for one in diagnostics
        if one.severity is Severity.ERROR
    )


def configuration(generation: Generation) -> Iterator[Check]:
    """Yield what `collector config check` warns of; what keeps incidents from being archived is bad."""
    facts = survey(generation, is_root=os.geteuid() == 0, environ=os.environ)
    fatal = set(archive_warnings(generation, facts))
    mistakes = set(errors(generation.warnings))
    for warning in warnings_of(generation, facts):
        if warning in mistakes:
            continue  # `configured` has them
        level: Level = "bad" if warning in fatal and not _is_anothers(facts.archive.path) else "warning"
        about = "archive" if warning in fatal else "config"
        yield Check(level, about, f"{warning.mark}: {warning.message}", warning.hint)
    archive = facts.archive
    if archive.parent != archive.path and not archive.problem:
        yield Check("warning", "archive", f"{archive.path} does not exist yet", "the first incident creates it")
    elif not fatal:
        yield Check("ok", "archive", f"{archive.path} on {archive.kind}, {size(archive.free_bytes)} free")


def _is_anothers(path: str) -> bool:
    """Return whether the archive is another user's: that this one may not write there says nothing of the daemon."""
    try:
        return os.geteuid() not in {0, os.lstat(path).st_uid}
    except OSError:
        return False


def archive(generation: Generation) -> Iterator[Check]:
    """Yield whether others can write to the archive or read it, and whether its file system has inodes left."""
    path = generation.settings.archive
    try:
        with ArchiveReader(path) as opened:
            mode = stat.S_IMODE(os.fstat(opened.fd).st_mode)
            space = os.fstatvfs(opened.fd)
    except DeniedError as exc:
        yield Check("warning", "archive", f"not checked: {exc}", exc.hint)
    except ArchiveError as exc:
        if os.path.lexists(path):  # `configuration` reports one that does not exist
            yield Check("bad", "archive", str(exc), exc.hint)
    else:
        if mode & 0o077:
            said = f"{path} has mode {mode:04o}: others may look into it, and it holds memory of processes"
            yield Check("warning", "archive", said, f"chmod 0700 {path}; the daemon does so when it starts")
        if space.f_favail == 0 < space.f_files:
            yield Check("bad", "archive", f"the file system of {path} has no inode left", "remove small files there")


def incidents(generation: Generation) -> Iterator[Check]:
    """Yield what became of the last incident, when one was last complete, and what a killed run has left."""
    try:
        left = unfinished(generation.settings.archive)
        with ArchiveReader(generation.settings.archive) as opened:
            sealed = [one for one in opened.summaries() if isinstance(one, IncidentSummary) and one.ended_s is not None]
    except ArchiveError:
        return  # `archive` reports it
    except DeniedError:
        return
    if left:
        said = f"unfinished, of a run that was killed: {', '.join(left)}"
        hint = "the daemon's next start goes on with its own; a run by hand without it seals those of other such runs"
        yield Check("warning", "incidents", said, hint)
    if not sealed:
        return
    last = sealed[-1]
    whole = next((one for one in reversed(sealed) if one.state == IncidentState.COMPLETE), None)
    said = f"the last of {len(sealed)} is {last.id} of {local_time(last.ended_s or 0)}: {last.state}"
    if whole is last:
        yield Check("ok", "incidents", said)
        return
    missing = ", ".join(one.step for one in last.missing)
    said += f" (missing: {missing})" if missing else ""
    before = f"the last complete one is {whole.id} of {local_time(whole.ended_s or 0)}" if whole else "none is complete"
    yield Check("warning", "incidents", f"{said}; {before}", f"collector show {last.id}")


def metrics(generation: Generation) -> Iterator[Check]:
    """Yield whether the file for node_exporter is written, if there is to be one."""
    yield from metrics_file(generation.loaded.config.metrics.textfile)


def metrics_file(path: str) -> Iterator[Check]:
    """Yield what is wrong with the file of metrics at *path*; nothing if it is empty."""
    if not path:
        return
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        yield Check("warning", "metrics", f"{directory} does not exist: no metrics are written", f"mkdir {directory}")
        return
    try:
        age_s = time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        yield Check("warning", "metrics", f"{path} was not written yet", "the daemon writes it while it runs")
        return
    if age_s > OLDEST_METRICS_S:
        yield Check("warning", "metrics", f"{path} was last written {age_s / 60:.0f} min ago", "does the daemon run?")
    else:
        yield Check("ok", "metrics", f"{path} is up to date")
