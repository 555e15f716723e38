"""The README of an export: for somebody who has the file, the usual tools, and never heard of this program."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from collector.collectors.registry import COLLECTORS
from collector.model.incident import Manifest, StepRecord
from collector.model.text import printable
from collector.model.units import counted, size
from collector.report.changed_files import changed_files
from collector.report.recipes import recipes

SHOWN_FILES = 12
"""Files listed of each step; the others are in ``NAMES.tsv``."""

WIDTH = 200
"""Maximum characters of a text that an attacker may have made long."""


class Exported(NamedTuple):
    """A file in the export: its *name* there, and its length."""

    name: str
    size_bytes: int


class Surroundings(NamedTuple):
    """What a README says that is not in the manifest; each is empty if there is none."""

    screen: Sequence[str] = ()
    """What ``collector show`` prints."""
    debugger: Sequence[str] = ()
    """How to open the core."""
    left_out: Collection[str] = ()
    """Steps that the export was asked to leave out."""


def readme(manifest: Manifest, files: Mapping[str, Exported], around: Surroundings) -> bytes:
    """Return the README; *files* are those of the incident in the export, by their paths in the manifest."""
    parts = {
        "What this is": _what(manifest),
        "What happened": around.screen,
        "Begin here": _beginning(manifest),
        "The core": around.debugger,
        "Questions and answers": recipes(_by_collector(manifest, files)),
        "What is missing": _missing(manifest, files, around),
        "Files, by step": [line for step in manifest.steps for line in _step(step, files, around)],
    }
    text = "\n\n".join(
        "\n".join((title, "-" * len(title), *(f"  {line}".rstrip() for line in lines)))
        for title, lines in parts.items()
        if lines
    )
    return f"{text}\n".encode("utf-8", "backslashreplace")


def _by_collector(manifest: Manifest, files: Mapping[str, Exported]) -> Iterator[tuple[str, str]]:
    """Yield the collector and the name of each file."""
    collectors = {step.id: step.collector or step.id for step in manifest.steps}
    for path, file in files.items():
        yield collectors.get(path.partition("/")[0], ""), file.name


def _what(manifest: Manifest) -> list[str]:
    at = datetime.fromtimestamp(manifest.started_s, UTC) if 0 <= manifest.started_s < 1 << 37 else None
    return [
        f"Incident {manifest.id}: what `collector` {printable(manifest.collector_version, limit=WIDTH)} archived",
        f"on {printable(manifest.host, limit=WIDTH)} (Linux {printable(manifest.kernel, limit=WIDTH)})"
        + (f" at {at:%Y-%m-%dT%H:%M:%SZ}." if at else "."),
        *_machine(manifest),
        "",
        "CAUTION: it holds memory of processes (the core, shared memory), with whatever passwords, keys and",
        "customers' data were in it. Give it to nobody who may not have those, and delete it when you are done.",
        "A core or a segment is whatever its process made of it: open it where there is nothing to lose.",
    ]


def _machine(manifest: Manifest) -> Iterator[str]:
    """Yield what inventories know the machine by."""
    if manifest.machine_id:
        yield f"Machine id {printable(manifest.machine_id, limit=WIDTH)}"
    yield f"Boot id {printable(manifest.boot_id, limit=WIDTH)}"
    for name, text in manifest.labels.items():
        yield f"Label {printable(name, limit=WIDTH)}: {printable(text, limit=WIDTH)}"


def _beginning(manifest: Manifest) -> list[str]:
    return [
        "zstd -t FILE.tar.zst               is the file whole?",
        "tar --zstd -xf FILE.tar.zst        unpack it; holes stay holes",
        "report.html                        open it in a browser; it needs no network",
        f"cd {manifest.id} && xxh128sum -c DIGESTS   are the files as they were archived? (Debian: xxhash)",
        "manifest.json                      every step: how it ended and why, every file: from where and when",
        "NAMES.tsv                          the name of each file here, in the manifest, and where it came from",
        "",
        "Names that somebody else chose have %XX for unusual characters, ~2 for a second one of the same name.",
        "Times are in seconds since 1970-01-01T00:00Z unless they say otherwise; sizes in bytes.",
    ]


def _missing(manifest: Manifest, files: Mapping[str, Exported], around: Surroundings) -> list[str]:
    lines = [
        f"{printable(step.id)}: {step.status}: {printable(step.reason, limit=2 * WIDTH) or 'no reason is known'}"
        for step in manifest.steps
        if step.status != "ok"
    ]
    lines += [f"{printable(one.id)}: not tried: {printable(one.reason, limit=WIDTH)}" for one in manifest.left_out]
    done = {step.id for step in manifest.steps} | {one.id for one in manifest.left_out}
    lines += [f"{printable(step)}: never ran" for step in manifest.planned if step not in done]
    lines += [f"{printable(step)}: left out of this export, as was asked for" for step in sorted(around.left_out)]
    changed = list(_changed(manifest, files, around))
    lines += changed[:SHOWN_FILES]
    if len(changed) > SHOWN_FILES:
        lines.append(f"and {len(changed) - SHOWN_FILES} more files that are gone, or of a different length")
    if manifest.foreign_names:
        lines.append(f"{manifest.foreign_names} files are not in the manifest: their names are not the collector's")
    return lines or ["nothing that was asked for"]


def _changed(manifest: Manifest, files: Mapping[str, Exported], around: Surroundings) -> Iterator[str]:
    """Yield what is wrong with each file that is not as long as it was archived."""
    sizes = {path: file.size_bytes for path, file in files.items()}
    for step in manifest.steps:
        for path, what in changed_files(step, sizes) if step.id not in around.left_out else ():
            yield f"{files[path].name if path in files else printable(path)}: {what}"


def _step(step: StepRecord, files: Mapping[str, Exported], around: Surroundings) -> Iterator[str]:
    if step.id in around.left_out or not step.artifacts:
        return
    found = [(artifact, files[artifact.path]) for artifact in step.artifacts if artifact.path in files]
    total = sum(file.size_bytes for _, file in found)
    yield f"{printable(step.id)}   {step.status}, {counted(len(found), 'file')}, {size(total)}"
    if sentence := _about(step.collector):
        yield f"  {sentence}"
    for artifact, file in found[:SHOWN_FILES]:
        source = f"   from {printable(artifact.source, limit=WIDTH)}" if artifact.source else ""
        cut = f"   CUT: {printable(artifact.truncated_reason or '', limit=WIDTH)}" if artifact.truncated else ""
        changed = "   changed while it was copied" if artifact.source_changed else ""
        yield f"  {size(file.size_bytes):>10}  {file.name}{source}{cut}{changed}"
    if len(found) > SHOWN_FILES:
        yield f"  {'':>10}  and {len(found) - SHOWN_FILES} more: grep '^{step.id}/' NAMES.tsv"
    yield ""


def _about(collector: str) -> str:
    """Return the sentence that a collector's own documentation begins with."""
    known = COLLECTORS.get(collector)
    text = inspect.getdoc(known) if known is not None else None
    return " ".join(text.partition("\n\n")[0].replace("``", "").split()) if text else ""
