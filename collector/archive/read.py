"""Reading incidents back, as if somebody else had written them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

import msgspec

from collector.archive import directory, layout
from collector.archive.manifest import manifest_of
from collector.model.case import merge
from collector.model.errors import ArchiveError, DeniedError, UsageError
from collector.model.incident import Header, Manifest, StepRecord

RUNNING = "running"
UNFINISHED = "unfinished"
"""The states of an incident without a manifest: somebody works on it, or it waits to be sealed."""

RECORDS_LIMIT = 16 << 20


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``collector list``; *ended_s* is ``None`` for what is not sealed."""

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


class UnderWay(Header, frozen=True, kw_only=True):
    """What an incident says of itself before it is sealed: its header, and the steps that have ended."""

    state: str
    steps: tuple[StepRecord, ...] = ()


class Archive:
    """
    The archive, open for reading.

    Raises:
        ArchiveError: If there is none, or it is not ours.
        DeniedError: If this user may not read it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.fd = directory.open_root(path, create=False)
        except ArchiveError as exc:
            if os.geteuid() != 0 and _is_roots(path):
                raise DeniedError(f"the archive {path} is root's", hint="run it as root (sudo)") from exc
            if isinstance(exc.__cause__, PermissionError):
                raise DeniedError(str(exc), hint="run it as the user whose it is, or as root (sudo)") from exc
            if isinstance(exc.__cause__, FileNotFoundError):
                hint = "it is made by the first incident: `collector run --now`; --archive names another"
                raise ArchiveError(f"there is no archive {path} yet", hint=hint) from exc
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def ids(self) -> list[str]:
        """Return the ids of all sealed incidents, oldest first."""
        return sorted(filter(layout.is_id, os.listdir(self.fd)))

    def unfinished(self) -> list[str]:
        """Return the ids of the incidents that are not sealed, oldest first."""
        names = sorted(os.listdir(self.fd))
        return [incident for name in names if (incident := layout.id_before(name, layout.PARTIAL))]

    def resolve(self, text: str, *, unsealed: bool = False) -> str:
        """
        Return the one id that starts or ends with *text*, or the newest for ``latest``.

        Args:
            text: What somebody typed.
            unsealed: Look among those under way, too.

        Raises:
            UsageError: If there is none, or more than one.
        """
        ids = sorted(set(self.ids()) | set(self.unfinished() if unsealed else ()))
        found = ids[-1:] if text == "latest" else [known for known in ids if known.startswith(text)]
        found = found or [known for known in ids if known.endswith(text)]
        if len(found) == 1:
            return found[0]
        if not ids:
            raise UsageError(f"the archive {self.path} is empty", hint="`collector run --now` makes an incident")
        what = "no incident" if not found else f"{len(found)} incidents"
        raise UsageError(f"{what} in {self.path} match {text!r}", hint="`collector list` shows all ids")

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

    def under_way(self, incident: str) -> UnderWay:
        """
        Return what is known of an incident that is not sealed.

        Raises:
            ArchiveError: If its header cannot be read.
        """
        try:
            with directory.opened(incident + layout.PARTIAL, self.fd) as fd:
                header = msgspec.json.decode(directory.read(layout.HEADER, fd, limit=1 << 20), type=Header)
                steps, state = tuple(_steps(fd)), RUNNING if _is_held(fd) else UNFINISHED
        except OSError as exc:
            raise ArchiveError(f"incident {incident} cannot be read: {exc.strerror}") from exc
        except msgspec.DecodeError as exc:
            raise ArchiveError(f"the header of incident {incident} cannot be read: {exc}") from exc
        if not header.markers:
            raise ArchiveError("the header names no marker")
        return UnderWay(**msgspec.structs.asdict(header), state=state, steps=steps)

    def read(self, incident: str) -> Manifest | UnderWay:
        """Return an incident's manifest, or what there is before it has one."""
        if incident in self.ids():
            return self.manifest(incident)
        return self.under_way(incident)

    def summaries(self) -> Iterator[Summary | str]:
        """Yield one summary an incident, oldest first; a sentence for one that cannot be read."""
        sealed = set(self.ids())
        for incident in sorted({*sealed, *self.unfinished()}):
            try:
                yield summary_of(self.read(incident))
            except ArchiveError as exc:
                if incident in sealed or incident in self.unfinished():  # else it was sealed or deleted meanwhile
                    yield f"{incident}: {exc}"


def _is_held(fd: int) -> bool:
    """Return whether somebody has the lock of the incident's directory; it is given back at once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _steps(fd: int) -> Iterator[StepRecord]:
    """Yield the steps that the journal says have ended; a last line may be cut short."""
    try:
        text = directory.read(layout.STEPS, fd, limit=RECORDS_LIMIT)
    except FileNotFoundError:
        return
    for line in text.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=StepRecord)


def _is_roots(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == 0
    except OSError:
        return False


def summary_of(manifest: Manifest | UnderWay) -> Summary:
    """Condense a manifest to a line."""
    marker = merge(manifest.markers)
    return Summary(
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
    )
