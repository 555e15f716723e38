"""The manifest as a file."""

from __future__ import annotations

import msgspec

from collector.archive import directory, layout
from collector.model.errors import ArchiveError
from collector.model.incident import MANIFEST_VERSION, Manifest

MANIFEST_LIMIT = 64 << 20


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as it stands on disk: JSON, indented, for people too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def manifest_of(fd: int) -> Manifest:
    """
    Read the manifest in an incident's directory.

    Raises:
        FileNotFoundError: If there is none.
        ArchiveError: If it is not of this version, has no marker, or a path in it leads anywhere but below it.
    """
    try:
        manifest = msgspec.json.decode(directory.read(layout.MANIFEST, fd, limit=MANIFEST_LIMIT), type=Manifest)
    except msgspec.DecodeError as exc:
        raise ArchiveError(f"the manifest cannot be read: {exc}") from exc
    if manifest.version != MANIFEST_VERSION:
        raise ArchiveError(
            f"the manifest has version {manifest.version}, this program reads {MANIFEST_VERSION}",
            hint="read it with the release that wrote it",
        )
    if not manifest.markers:
        raise ArchiveError("the manifest names no marker")
    for step in manifest.steps:
        for artifact in step.artifacts:
            if not layout.is_artifact_path(artifact.path):
                raise ArchiveError(f"the manifest names {artifact.path!r}, which is not a path within the incident")
    return manifest
