"""Digests of a sealed incident: adding those that the copy could not compute, checking all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import msgspec

from collector.archive import directory, layout
from collector.archive.manifest import encode, manifest_of
from collector.archive.read import Archive
from collector.model.artifact import ArtifactRecord
from collector.model.copying import Digest
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest

ALGORITHMS = frozenset({Digest.XXH3_128, Digest.SHA256})

DigestOf = Callable[[int], str]
"""Reads an open file back from the disk and returns ``ALGORITHM:HEX``."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` says of one artifact; *problem* is empty where it is as the manifest says."""

    path: str
    problem: str = ""
    checked: bool = False


def add_digests(archive: Archive, incident: str, digest_of: DigestOf) -> int:
    """
    Give every artifact without a digest one; the only change that a sealed incident ever sees.

    Returns:
        How many were added.
    """
    with archive.incident(incident) as fd:
        manifest = manifest_of(fd)
        found: dict[str, str] = {}
        try:
            for artifact in _artifacts(manifest):
                if artifact.digest is None:
                    with directory.opened_file(artifact.path, fd) as file:
                        found[artifact.path] = digest_of(file)
        finally:  # what was read before an interruption need not be read again
            if found:
                directory.replace(layout.MANIFEST, encode(_with_digests(manifest, found)), fd)
    return len(found)


def undigested(archive: Archive, limit: int) -> list[str]:
    """Return which of the newest *limit* incidents have an artifact without a digest, newest first."""
    found = []
    for incident in reversed(archive.ids()[-limit:]):
        with contextlib.suppress(ArchiveError):
            if any(artifact.digest is None for artifact in _artifacts(archive.manifest(incident))):
                found.append(incident)
    return found


def verify(archive: Archive, incident: str, digest_of: Callable[[int, str], str]) -> Iterator[Finding]:
    """
    Yield one finding an artifact: missing, of another length, of another digest, or as it was.

    Args:
        archive: The archive.
        incident: A sealed incident's id.
        digest_of: Given a descriptor and an algorithm, returns ``ALGORITHM:HEX``.
    """
    with archive.incident(incident) as fd:
        for artifact in _artifacts(manifest_of(fd)):
            try:
                with directory.opened_file(artifact.path, fd) as file:
                    yield _check(artifact, file, digest_of)
            except OSError as exc:
                yield Finding(path=artifact.path, problem=exc.strerror or str(exc))
            except ArchiveError as exc:
                yield Finding(path=artifact.path, problem=str(exc))


def _check(artifact: ArtifactRecord, file: int, digest_of: Callable[[int, str], str]) -> Finding:
    size = os.fstat(file).st_size
    if size != artifact.size_bytes:
        return Finding(path=artifact.path, problem=f"is {size} bytes long, was {artifact.size_bytes}")
    if artifact.digest is None:
        return Finding(path=artifact.path)
    algorithm, _, _ = artifact.digest.partition(":")
    if algorithm not in ALGORITHMS:
        return Finding(path=artifact.path, problem=f"has a digest of a kind that is not known: {artifact.digest!r}")
    digest = digest_of(file, algorithm)
    problem = "" if digest == artifact.digest else f"has digest {digest}, had {artifact.digest!r}"
    return Finding(path=artifact.path, problem=problem, checked=True)


def _artifacts(manifest: Manifest) -> Iterator[ArtifactRecord]:
    for step in manifest.steps:
        yield from step.artifacts


def _with_digests(manifest: Manifest, found: dict[str, str]) -> Manifest:
    replace = msgspec.structs.replace
    return replace(
        manifest,
        steps=tuple(
            replace(
                step,
                artifacts=tuple(
                    replace(artifact, digest=found.get(artifact.path, artifact.digest)) for artifact in step.artifacts
                ),
            )
            for step in manifest.steps
        ),
    )
