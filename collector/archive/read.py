"""Reading incidents back, as if somebody else had written them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import msgspec

from collector.archive import directory, layout
from collector.archive.manifest import manifest_of
from collector.model.errors import ArchiveError, UsageError
from collector.model.incident import IncidentState, Manifest


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``collector list``."""

    id: str
    state: IncidentState
    started_s: float
    ended_s: float
    trigger: str
    reason: str
    size_bytes: int
    steps: dict[str, str]


class Archive:
    """
    The archive, open for reading.

    Raises:
        ArchiveError: If there is none, or it is not ours.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = directory.open_root(path, create=False)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def ids(self) -> list[str]:
        """Return the ids of all sealed incidents, oldest first."""
        return sorted(filter(layout.is_id, os.listdir(self.fd)))

    def resolve(self, text: str) -> str:
        """
        Return the one id that starts with *text*, or the newest for ``latest``.

        Raises:
            UsageError: If there is none, or more than one.
        """
        ids = self.ids()
        found = ids[-1:] if text == "latest" else [known for known in ids if known.startswith(text)]
        if len(found) != 1:
            what = "no incident" if not found else f"{len(found)} incidents"
            raise UsageError(f"{what} in {self.path} match {text!r}", hint="`collector list` shows all ids")
        return found[0]

    @contextlib.contextmanager
    def incident(self, incident: str) -> Iterator[int]:
        """Open the directory of a sealed incident."""
        with directory.opened(incident, self.fd) as fd:
            yield fd

    def manifest(self, incident: str) -> Manifest:
        """Return an incident's manifest, checked."""
        try:
            with self.incident(incident) as fd:
                return manifest_of(fd)
        except OSError as exc:
            raise ArchiveError(f"incident {incident} cannot be read: {exc.strerror}") from exc

    def summaries(self) -> Iterator[Summary | str]:
        """Yield one summary an incident, oldest first; a sentence for one that cannot be read."""
        for incident in self.ids():
            try:
                yield summary_of(self.manifest(incident))
            except ArchiveError as exc:
                yield f"{incident}: {exc}"


def summary_of(manifest: Manifest) -> Summary:
    """Condense a manifest to a line."""
    marker = manifest.markers[0]
    return Summary(
        id=manifest.id,
        state=manifest.state,
        started_s=manifest.started_s,
        ended_s=manifest.ended_s,
        trigger=marker.trigger,
        reason=marker.reason,
        size_bytes=sum(artifact.data_bytes for step in manifest.steps for artifact in step.artifacts),
        steps={step.id: step.status for step in manifest.steps},
    )
