"""What an export of an incident consists of, and in which order: what is read first comes first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from collector.archive import tree
from collector.archive.export import Composed, Copied, Member
from collector.archive.layout import MANIFEST
from collector.archive.read import ArchiveReader
from collector.config.scalars import suggest
from collector.model.artifact import ArtifactRecord
from collector.model.errors import ArchiveError, UsageError
from collector.model.incident import Manifest
from collector.model.text import escape_name, printable
from collector.report.archived_core import archived_core
from collector.report.gdb_guide import gdb_guide
from collector.report.member_names import member_names
from collector.report.readme import Exported, Surroundings, readme

README, PAGE, NAMES, DIGESTS = "README", "report.html", "NAMES.tsv", "DIGESTS"
PROVEN = "xxh3_128:"
"""The digests that ``xxh128sum -c`` checks."""

BULK_BYTES = 1 << 20
"""Files from this size on come last."""


def wanted_steps(manifest: Manifest, only: Collection[str], without: Collection[str]) -> set[str]:
    """
    Return the ids of the steps to export: those named by *only*, by id or collector, or all, but none of *without*.

    Raises:
        UsageError: If the incident has no step of such a name, or none is left.
    """
    names = {step.id: {step.id, step.collector} for step in manifest.steps}
    known = set().union(*names.values()) - {""}
    if unknown := [name for name in (*only, *without) if name not in known]:
        raise UsageError(f"incident {manifest.id} has no step {unknown[0]!r}", hint=suggest(unknown[0], sorted(known)))
    wanted = {step for step, called in names.items() if (not only or called & set(only)) and not called & set(without)}
    if names and not wanted:
        raise UsageError("no step is left to export", hint=f"its steps are {', '.join(names)}")
    return wanted


def members_of(
    archive: ArchiveReader,
    manifest: Manifest,
    wanted: Collection[str],
    *,
    screen: Sequence[str],
    page: Callable[[Mapping[str, str]], str],
) -> list[Member]:
    """
    Return the members of an incident's export.

    Args:
        wanted: The ids of the steps whose files it holds; files that belong to no step are always in it.
        screen: What ``collector show`` prints.
        page: Makes the report, with the names of the files beside it, by their paths in the manifest.
    """
    with archive.incident(manifest.id) as fd:
        sizes = {path: status.st_size for path, status in tree.files(fd)}
    names = member_names(manifest.artifacts(), sizes)
    left_out = {step.id for step in manifest.steps} - set(wanted)
    paths = sorted((path for path in sizes if _step(path) not in left_out), key=lambda path: _order(path, sizes[path]))
    files = {path: Exported(names[path], sizes[path]) for path in paths}
    artifacts = [artifact for artifact in manifest.artifacts() if artifact.path in files]
    around = Surroundings(screen=screen, debugger=_debugger(archive, manifest, files), left_out=left_out)
    document = page({path: file.name for path, file in files.items()})
    head = [(README, readme(manifest, files, around)), (PAGE, document.encode())]
    head += [(NAMES, _names(files, artifacts)), (DIGESTS, _digests(files, artifacts))]
    return [
        *(Composed(name, content, manifest.ended_s) for name, content in head),
        *(Copied(path, names[path]) for path in paths),
    ]


def _debugger(archive: ArchiveReader, manifest: Manifest, files: Mapping[str, Exported]) -> list[str]:
    """Return how to open the core; nothing if there is none."""
    with suppress(ArchiveError), archived_core(archive, manifest.id, manifest) as core:
        path = core.path.removeprefix(f"{archive.path}/{manifest.id}/")
        return gdb_guide(core, files[path].name if path in files else "") if core.summary.path else []
    return []


def _step(path: str) -> str:
    """Return the step that a file is of; empty if it is none's."""
    step, slash, _ = path.partition("/")
    return step if slash else ""


def _order(path: str, size: int) -> tuple[bool, bool, int, str]:
    """The manifest, small files by name, then the others, the largest last."""
    return path != MANIFEST, size >= BULK_BYTES, size if size >= BULK_BYTES else 0, path


def _names(files: Mapping[str, Exported], artifacts: Sequence[ArtifactRecord]) -> bytes:
    sources = {artifact.path: artifact.source or "" for artifact in artifacts}
    rows = (f"{file.name}\t{escape_name(path)}\t{printable(sources.get(path, ''))}\n" for path, file in files.items())
    return "".join(("name\tpath_in_manifest\tsource\n", *rows)).encode()


def _digests(files: Mapping[str, Exported], artifacts: Sequence[ArtifactRecord]) -> bytes:
    """Return what the archive knows to be right, as ``xxh128sum -c`` reads it."""
    proven = ((artifact.digest or "", files[artifact.path].name) for artifact in artifacts)
    return "".join(f"{d.removeprefix(PROVEN)}  {name}\n" for d, name in proven if d.startswith(PROVEN)).encode()
