"""
Sealing: from the journal of an incident under way to its manifest and its final name.

The same code ends every incident, whether its run came to the end or was killed half-way: what the
journal tells is what the manifest says. So the way back after a crash is walked every day.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain

import msgspec

from collector.archive import directory, layout
from collector.archive.manifest import encode, manifest_of
from collector.archive.store import ArtifactLine, Store, give_back_room, journal
from collector.host.syscalls import rename_noreplace
from collector.model.artifact import ArtifactRecord
from collector.model.errors import ArchiveError
from collector.model.incident import Header, IncidentState, Manifest, StepEnd, StepRecord, StepStatus
from collector.model.marker import Marker

UNRECORDED = "found on disk without a record: its writing did not come to an end"
UNFINISHED = "the collector was killed before this step ended"


def seal(
    store: Store,
    incident: str,
    *,
    ended_s: float,
    interrupted: bool,
    markers: tuple[Marker, ...] = (),
    ends: tuple[StepEnd, ...] = (),
) -> Manifest:
    """
    Write the manifest of an incident under way and give it its final name.

    Can be killed at any instant and called again: a manifest that stands already is kept as it is.

    Args:
        store: The archive.
        incident: Its id.
        ended_s: Wall clock, seconds since the epoch.
        interrupted: The run did not come to its end.
        markers: All that are known by now, if more than the header names.
        ends: How steps ended, for those whose line the journal lacks: a full disk takes no line.

    Raises:
        ArchiveError: If the journal is not one that this program wrote.
        OSError: If the disk gives one.
    """
    with store.incident(incident) as fd:
        try:
            manifest = manifest_of(fd)
        except FileNotFoundError:
            header = _header(fd, incident)
            if markers:
                header = msgspec.structs.replace(header, markers=markers)
            known = {end.id: end for end in (*journal(fd, layout.STEPS, StepEnd), *ends)}
            manifest = _compose(fd, header, known, ended_s=ended_s, interrupted=interrupted)
            directory.replace(layout.MANIFEST, encode(manifest), fd)
        give_back_room(fd)
        rename_noreplace(incident + layout.PARTIAL, incident, dir_fd=store.fd)
    os.fsync(store.fd)
    return manifest


def _compose(fd: int, header: Header, ends: dict[str, StepEnd], *, ended_s: float, interrupted: bool) -> Manifest:
    by_step: dict[str, list[ArtifactRecord]] = {}
    recorded: set[str] = set()
    # One record at a time: ten thousand of a step are 15 MiB, and need not be there twice.
    for line in chain(journal(fd, layout.ARTIFACTS, ArtifactLine), _unrecorded(fd, recorded)):
        recorded.add(line.path)
        by_step.setdefault(line.step, []).append(_plain(line))
    known = [end for end in ends.values() if end.id in header.planned]
    lost = [
        StepEnd(id=step, collector="", status=StepStatus.FAILED, reason=UNFINISHED)
        for step in header.planned
        if step not in ends and step in by_step
    ]
    steps = tuple(
        StepRecord(**msgspec.structs.asdict(end), artifacts=tuple(by_step.get(end.id, ()))) for end in (*known, *lost)
    )
    return Manifest(
        **msgspec.structs.asdict(header),
        state=_state(steps, header, interrupted=interrupted),
        ended_s=ended_s,
        steps=steps,
    )


def _state(steps: tuple[StepRecord, ...], header: Header, *, interrupted: bool) -> IncidentState:
    if interrupted:
        return IncidentState.INTERRUPTED
    done = {step.id for step in steps if step.status is StepStatus.OK}
    missing = set(header.planned) - done - set(header.optional)
    return IncidentState.INCOMPLETE if missing else IncidentState.COMPLETE


def _header(fd: int, incident: str) -> Header:
    try:
        return msgspec.json.decode(directory.read(layout.HEADER, fd, limit=1 << 20), type=Header)
    except (msgspec.DecodeError, FileNotFoundError) as exc:
        raise ArchiveError(f"incident {incident} has no readable {layout.HEADER}: {exc}") from exc


def _unrecorded(fd: int, recorded: set[str]) -> Iterator[ArtifactLine]:
    """Yield what lies in the steps' directories and no record speaks of."""
    for path, status in directory.files(fd):
        step, slash, _ = path.partition("/")
        if slash and path not in recorded:
            size, data = status.st_size, min(status.st_size, status.st_blocks * 512)
            if path.endswith(layout.PART):
                size, data = directory.give_back(path, fd)
            yield ArtifactLine(
                step=step,
                path=path,
                size_bytes=size,
                data_bytes=data,
                truncated=True,
                truncated_reason=UNRECORDED,
            )


def _plain(line: ArtifactLine) -> ArtifactRecord:
    fields = msgspec.structs.asdict(line)
    del fields["step"]
    return ArtifactRecord(**fields)
