"""Reading incidents back; nothing in them is trusted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import msgspec

from collector.archive import clock, directory, layout
from collector.archive.store import checked, header_of, journal
from collector.model.case import merge
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError, DeniedError, UsageError
from collector.model.incident import IncidentHeader, Manifest, StepRecord

RUNNING = "running"
UNFINISHED = "unfinished"
"""The states of an incident without a manifest: a run is working on it, or it is yet to be sealed."""

MANIFEST_LIMIT = 64 << 20


class IncidentSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``collector list``; *ended_s* is ``None`` if the incident is not sealed."""

    id: str
    state: str
    started_s: float
    ended_s: float | None
    trigger: str
    reason: str
    size_bytes: int
    steps: dict[str, str]
    comm: str | None = None
    pid: int | None = None
    signal: int | None = None
    owner: str = ""
    number: int = 0
    """The archive's count: the order, whatever the times say; 0 in incidents of earlier releases."""


class UnderWay(IncidentHeader, frozen=True, kw_only=True):
    """What is known of an incident before it is sealed: its header, and the steps that have ended."""

    state: str
    steps: tuple[StepRecord, ...] = ()


class ArchiveReader(directory.ArchiveDirectory):
    """
    The archive, open for reading.

    Raises:
        ArchiveError: If there is none, or others can write to it.
        DeniedError: If this user may not read it.
    """

    def __init__(self, path: str) -> None:
        try:
            super().__init__(path, create=False)
        except ArchiveError as exc:
            if os.geteuid() != 0 and _is_roots(path):
                raise DeniedError(f"the archive {path} is root's", hint="run it as root (sudo)") from exc
            if isinstance(exc.__cause__, PermissionError):
                raise DeniedError(str(exc), hint="run it as the archive's owner, or as root (sudo)") from exc
            if isinstance(exc.__cause__, FileNotFoundError):
                hint = "the first incident creates it: `collector run --now`; --archive names another"
                raise ArchiveError(f"there is no archive {path} yet", hint=hint) from exc
            raise

    def names(self) -> list[str]:
        """Return the ids of all sealed incidents, by label."""
        return sorted(filter(layout.is_id, os.listdir(self.fd)))

    def ids(self, *, unsealed: bool = False) -> list[str]:
        """Return the ids of all sealed incidents, oldest first by their numbers; *unsealed* ones only if asked."""
        places = {name: name for name in self.names()}
        if unsealed:
            places |= {name: name + layout.PARTIAL for name in self.unfinished() if name not in places}
        return sorted(places, key=lambda name: (clock.number_of(places[name], self.fd), name))

    def resolve(self, text: str, *, unsealed: bool = False) -> str:
        """
        Return the one id that starts or ends with *text*, or the newest for ``latest``; *unsealed* ones only if asked.

        Raises:
            UsageError: If there is none, or more than one.
        """
        if text == "latest":
            ids = found = self.ids(unsealed=unsealed)[-1:]
        else:
            ids = sorted({*self.names(), *(self.unfinished() if unsealed else ())})
            found = [known for known in ids if known.startswith(text)] or [x for x in ids if x.endswith(text)]
        if len(found) == 1:
            return found[0]
        if not ids:
            raise UsageError(f"the archive {self.path} is empty", hint="`collector run --now` makes an incident")
        what = "no incident" if not found else f"{len(found)} incidents"
        raise UsageError(f"{what} in {self.path} match {text!r}", hint="`collector list` shows all ids")

    def incident(self, incident: str) -> AbstractContextManager[int]:
        """Open the directory of a sealed incident."""
        return directory.opened(incident, self.fd)

    def manifest(self, incident: str) -> Manifest:
        """Return an incident's manifest, checked as `read_manifest` does."""
        try:
            with self.incident(incident) as fd:
                return read_manifest(fd, incident)
        except OSError as exc:
            raise ArchiveError(f"incident {incident} cannot be read: {exc.strerror}") from exc

    def under_way(self, incident: str) -> UnderWay:
        """Return what is known of an incident that is not sealed; raise `ArchiveError` if its header is unreadable."""
        try:
            with directory.opened(incident + layout.PARTIAL, self.fd) as fd:
                header = header_of(fd, incident)
                steps = tuple(journal(fd, layout.STEPS, StepRecord))
                state = RUNNING if _is_held(fd) else UNFINISHED
        except OSError as exc:
            raise ArchiveError(f"incident {incident} cannot be read: {exc.strerror}") from exc
        return UnderWay(**msgspec.structs.asdict(header), state=state, steps=steps)

    def read(self, incident: str) -> Manifest | UnderWay:
        """Return an incident's manifest, or what is known before it has one."""
        if incident in self.names():
            return self.manifest(incident)
        return self.under_way(incident)

    def summaries(self) -> Iterator[IncidentSummary | str]:
        """Yield a summary of each incident, oldest first; for one that cannot be read, a sentence that says why."""
        sealed = set(self.names())
        for incident in self.ids(unsealed=True):
            try:
                yield _summarize(self.read(incident))
            except ArchiveError as exc:
                if incident in sealed or incident in self.unfinished():  # else it was sealed or deleted meanwhile
                    yield f"{incident}: {exc}"


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as it is stored: JSON, indented for human readers."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def read_manifest(fd: int, incident: str) -> Manifest:
    """
    Read the manifest in the directory of *incident*.

    Raises:
        FileNotFoundError: If there is none.
        ArchiveError: If `checked` refuses it, or a path in it leads out of the incident.
    """
    try:
        found = decode(directory.read(layout.MANIFEST, fd, limit=MANIFEST_LIMIT), Manifest)
    except MalformedError as exc:
        raise ArchiveError(f"the manifest cannot be read: {exc}") from exc
    manifest = checked(found, "manifest", incident)
    for artifact in manifest.artifacts():
        if not layout.is_artifact_path(artifact.path):
            raise ArchiveError(f"the manifest names {artifact.path!r}, which is not a path within the incident")
    return manifest


def _is_held(fd: int) -> bool:
    """Return whether another process holds the lock of the incident's directory."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _is_roots(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == 0
    except OSError:
        return False


def _summarize(manifest: Manifest | UnderWay) -> IncidentSummary:
    marker = merge(manifest.markers)
    return IncidentSummary(
        id=manifest.id,
        state=manifest.state,
        started_s=manifest.started_s,
        ended_s=manifest.ended_s if isinstance(manifest, Manifest) else None,
        trigger=marker.trigger,
        reason=marker.reason,
        size_bytes=sum(artifact.data_bytes for step in manifest.steps for artifact in step.artifacts),
        steps={step.id: step.status for step in manifest.steps},
        comm=marker.comm,
        pid=marker.process.pid if marker.process else None,
        signal=marker.signal,
        owner=manifest.owner,
        number=manifest.number,
    )
