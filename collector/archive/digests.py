"""Digests of a sealed incident: adding those that the copy did not compute, and verifying all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping

import msgspec

from collector.archive import directory, layout
from collector.archive.read import ArchiveReader, encode_manifest, read_manifest
from collector.model.artifact import ArtifactRecord
from collector.model.errors import ArchiveError, CopyError
from collector.model.incident import StepRecord

SHOWN = 3
"""Problems that an error lists."""


class ArtifactCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify` for one artifact; *problem* is empty if it matches the manifest."""

    path: str
    problem: str = ""
    checked: bool = False


def add_digests(archive: ArchiveReader, incident: str, digest_of: Callable[[int], str]) -> int:
    """
    Add the missing digests to the manifest, the only change ever made to a sealed incident; return their number.

    *digest_of* reads an open file back from the disk and returns ``ALGORITHM:HEX``.

    Raises:
        ArchiveError: If the manifest cannot be read; at the end, if a file cannot, after all others.
        CopyError: From *digest_of*, which was stopped.
    """
    problems: list[str] = []
    with archive.incident(incident) as fd:
        manifest = read_manifest(fd, incident)
        found: dict[str, str] = {}
        try:
            for artifact in manifest.artifacts():
                if artifact.digest is not None:
                    continue
                try:
                    with directory.opened_file(artifact.path, fd) as file:
                        found[artifact.path] = digest_of(file)
                except (ArchiveError, OSError) as exc:
                    problems.append(f"{artifact.path}: {exc}")
                except CopyError as exc:
                    if exc.errno is None:  # stopped
                        raise
                    problems.append(f"{artifact.path}: {exc}")
        finally:  # an interruption must not cost the digests computed before it
            if found:
                steps = tuple(_with_digests(step, found) for step in manifest.steps)
                manifest = msgspec.structs.replace(manifest, steps=steps)
                directory.replace(layout.MANIFEST, encode_manifest(manifest), fd)
    if problems:
        raise ArchiveError("; ".join(problems[:SHOWN]))
    return len(found)


def undigested(archive: ArchiveReader, limit: int) -> list[str]:
    """Return those of the newest *limit* incidents that have an artifact without a digest, newest first."""
    found = []
    for incident in reversed(archive.ids()[-limit:]):
        with contextlib.suppress(ArchiveError):
            if any(artifact.digest is None for artifact in archive.manifest(incident).artifacts()):
                found.append(incident)
    return found


def verify(archive: ArchiveReader, incident: str, digest_of: Callable[[int, str], str]) -> Iterator[ArtifactCheck]:
    """
    Check the existence, length and digest of every artifact of a sealed incident.

    *digest_of* reads an open file back from the disk and returns its digest of the given kind, ``KIND:HEX``.
    """
    with archive.incident(incident) as fd:
        for artifact in read_manifest(fd, incident).artifacts():
            try:
                with directory.opened_file(artifact.path, fd) as file:
                    yield _check(artifact, file, digest_of)
            except OSError as exc:
                yield ArtifactCheck(path=artifact.path, problem=exc.strerror or str(exc))
            except (ArchiveError, CopyError) as exc:
                yield ArtifactCheck(path=artifact.path, problem=str(exc))


def _check(artifact: ArtifactRecord, file: int, digest_of: Callable[[int, str], str]) -> ArtifactCheck:
    size = os.fstat(file).st_size
    if size != artifact.size_bytes:
        return ArtifactCheck(path=artifact.path, problem=f"is {size} bytes long, was {artifact.size_bytes}")
    if artifact.digest is None:
        return ArtifactCheck(path=artifact.path)
    digest = digest_of(file, artifact.digest.partition(":")[0])
    problem = "" if digest == artifact.digest else f"has digest {digest}, had {artifact.digest!r}"
    return ArtifactCheck(path=artifact.path, problem=problem, checked=True)


def _with_digests(step: StepRecord, found: Mapping[str, str]) -> StepRecord:
    replace = msgspec.structs.replace
    artifacts = tuple(replace(one, digest=found.get(one.path, one.digest)) for one in step.artifacts)
    return replace(step, artifacts=artifacts)
