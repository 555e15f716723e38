"""Reading incidents back; nothing in them is trusted."""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager

import msgspec

from collector.archive import clock, directory, layout
from collector.archive.store import checked, header_of, journal
from collector.archive.summary import IncidentSummary, Outline, header_summary, summarize
from collector.archive.tree import written
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError, DeniedError, UsageError
from collector.model.incident import IncidentHeader, Manifest, StepEnd, StepRecord

RUNNING = "running"
UNFINISHED = "unfinished"
"""The states of an incident without a manifest: a run is working on it, or it is yet to be sealed."""

MANIFEST_LIMIT = 64 << 20


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
                hint = "run it as root (sudo); members of archive.group may ask for `collector list`"
                raise DeniedError(f"the archive {path} is root's", hint=hint) from exc
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
        if not found and not unsealed:
            self._refuse_unsealed(text)
        if not ids:
            raise UsageError(f"the archive {self.path} is empty", hint="`collector run --now` makes an incident")
        what = "no incident matches" if not found else f"{len(found)} incidents match"
        raise UsageError(f"{what} {text!r} in {self.path}", hint="`collector list` shows all ids")

    def _refuse_unsealed(self, text: str) -> None:
        """Raise `UsageError` if *text* means an incident that is not sealed."""
        for known in reversed(self.unfinished()):
            if text == "latest" or known.startswith(text) or known.endswith(text):
                hint = f"`collector show {known}` shows what there is"
                raise UsageError(f"incident {known} is not sealed: it is under way, or was interrupted", hint=hint)

    def incident(self, incident: str) -> AbstractContextManager[int]:
        """Open the directory of a sealed incident."""
        return directory.opened(incident, self.fd)

    def manifest(self, incident: str) -> Manifest:
        """Return an incident's manifest, checked as `read_manifest` does."""
        try:
            with self.incident(incident) as fd:
                return self._read_manifest(fd, incident)
        except OSError as exc:
            raise ArchiveError(f"incident {incident} cannot be read: {exc.strerror}") from exc

    def _read_manifest(self, fd: int, incident: str) -> Manifest:
        try:
            return read_manifest(fd, incident)
        except FileNotFoundError as exc:
            raise ArchiveError(f"incident {incident}: {layout.MANIFEST} is gone", hint=self._instead(incident)) from exc
        except ArchiveError as exc:
            raise ArchiveError(f"incident {incident}: {exc}", hint=exc.hint or self._instead(incident)) from exc

    def _instead(self, incident: str) -> str:
        files = f"{layout.HEADER}, {layout.STEPS} and {layout.ARTIFACTS}"
        return f"its evidence is in {self.path}/{incident}; {files} there say what the manifest did"

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

    def summaries(self) -> list[IncidentSummary | str]:
        """Return a summary of each incident, oldest first; for one that cannot be read, a sentence that says why."""
        incidents = {*self.unfinished(), *self.names()}
        found = [placed for incident in incidents if (placed := self._placed(incident)) is not None]
        return [summary for _, _, summary in sorted(found, key=lambda one: one[:2])]

    def _placed(self, incident: str) -> tuple[int, str, IncidentSummary | str] | None:
        """Return the number, id and summary of an incident; ``None`` if it is deleted meanwhile."""
        # It may be sealed between the first look and the second.
        for name, summary_of in (
            (incident, sealed_summary),
            (incident + layout.PARTIAL, _unsealed),
            (incident, sealed_summary),
        ):
            try:
                with directory.opened(name, self.fd) as fd:
                    summary = summary_of(fd, incident)
            except (ArchiveError, OSError) as exc:
                if self.has(name):
                    why = exc if isinstance(exc, ArchiveError) else f"it cannot be read: {exc.strerror}"
                    return clock.number_of(name, self.fd), incident, f"{incident}: {why}"
            else:
                return summary.number, incident, summary
        return None

    def has(self, name: str) -> bool:
        """Return whether the archive has something of that name."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return False
        return True


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


def sealed_summary(fd: int, incident: str) -> IncidentSummary:
    """Return a summary of the sealed *incident* in *fd*; raise `ArchiveError` or `OSError` if it cannot be read."""
    try:
        found = decode(directory.read(layout.MANIFEST, fd, limit=MANIFEST_LIMIT), Outline)
    except MalformedError as exc:
        raise ArchiveError(f"the manifest cannot be read: {exc}") from exc
    return summarize(checked(found, "manifest", incident))


def _unsealed(fd: int, incident: str) -> IncidentSummary:
    steps = {step.id: str(step.status) for step in journal(fd, layout.STEPS, StepEnd)}
    return header_summary(
        header_of(fd, incident),
        state=RUNNING if _is_held(fd) else UNFINISHED,
        ended_s=None,
        size_bytes=written(fd),
        steps=steps,
    )


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
