"""
Sealing: composing the manifest from an incident's journal, and giving it its final name.

The same code ends every incident, whether its run finished or was killed halfway, so that recovery after a crash is
exercised every day.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from itertools import chain

import msgspec

from collector.archive import clock, directory, layout, tree
from collector.archive.read import encode_manifest, read_manifest
from collector.archive.store import Store, free_reserve, header_of, journal
from collector.host.syscalls import rename_noreplace
from collector.model.artifact import ArtifactRecord
from collector.model.incident import (
    Continuation,
    HoldRecord,
    IncidentHeader,
    IncidentState,
    Manifest,
    StepEnd,
    StepRecord,
    StepStatus,
)
from collector.model.marker import Marker

UNRECORDED = "found on disk without a record: it was not written to its end"
UNFINISHED = "the collector was killed before this step ended"


def seal(
    store: Store,
    incident: str,
    *,
    ended_s: float,
    interrupted: bool,
    markers: tuple[Marker, ...] = (),
    ends: tuple[StepEnd, ...] = (),
    hold: HoldRecord | None = None,
) -> Manifest:
    """
    Write the manifest of an incident under way and give it its final name.

    Can be killed at any instant and called again: a manifest that is already there is kept as it is.

    Args:
        ended_s: Wall clock, seconds since the epoch.
        interrupted: The run did not finish.
        markers: All that are known by now, if more than the header names.
        ends: How steps ended, in case the journal lacks some because the disk was full.
        hold: For how long the kernel held the crashed process, if it did and that is known.

    Raises:
        ArchiveError: If the header or the manifest is not one that this program wrote.
        OSError: From the disk.
    """
    with store.incident(incident) as fd:
        try:
            manifest = read_manifest(fd, incident)
        except FileNotFoundError:
            header = header_of(fd, incident)
            if markers:
                header = msgspec.structs.replace(header, markers=markers)
            known = {end.id: end for end in (*journal(fd, layout.STEPS, StepEnd), *ends)}
            manifest = _compose(fd, header, known, ended_s=ended_s, interrupted=interrupted)
            manifest = msgspec.structs.replace(
                manifest,
                archive_clock_s=clock.advance(store.fd).clock_s,
                sealed_bytes=tree.space(fd),
                hold=hold,
                continued=tuple(journal(fd, layout.CONTINUED, Continuation)),
            )
            directory.replace(layout.MANIFEST, encode_manifest(manifest), fd)
        free_reserve(fd)
        rename_noreplace(incident + layout.PARTIAL, incident, dir_fd=store.fd)
    os.fsync(store.fd)
    return manifest


def _compose(
    fd: int, header: IncidentHeader, ends: dict[str, StepEnd], *, ended_s: float, interrupted: bool
) -> Manifest:
    by_step: dict[str, list[ArtifactRecord]] = {}
    recorded: set[str] = set()
    foreign = 0
    # One record at a time: ten thousand take 15 MiB, which need not be in memory twice.
    for record in chain(journal(fd, layout.ARTIFACTS, ArtifactRecord), _unrecorded(fd, recorded)):
        recorded.add(record.path)
        if not layout.is_artifact_path(record.path):
            foreign += 1  # `read_manifest` would refuse all the others with it
            continue
        by_step.setdefault(record.path.partition("/")[0], []).append(record)
    header = _with_late_steps(header, ends.keys() | by_step.keys())
    foreign += sum(len(found) for step, found in by_step.items() if step not in ends and step not in header.planned)
    lost = [
        StepEnd(id=step, collector="", status=StepStatus.FAILED, reason=UNFINISHED)
        for step in header.planned
        if step not in ends and step in by_step
    ]
    steps = tuple(
        StepRecord(**msgspec.structs.asdict(end), artifacts=tuple(by_step.get(end.id, ())))
        for end in (*ends.values(), *lost)
    )
    return Manifest(
        **msgspec.structs.asdict(header),
        state=_state(steps, header, interrupted=interrupted),
        ended_s=ended_s,
        steps=steps,
        foreign_names=foreign,
    )


def _with_late_steps(header: IncidentHeader, tried: Set[str]) -> IncidentHeader:
    """Return *header* with the steps that were *tried* after all no longer left out."""
    late = tuple(step.id for step in header.left_out if step.id in tried)
    return msgspec.structs.replace(
        header,
        planned=(*header.planned, *late),
        left_out=tuple(step for step in header.left_out if step.id not in late),
    )


def _state(steps: tuple[StepRecord, ...], header: IncidentHeader, *, interrupted: bool) -> IncidentState:
    if interrupted:
        return IncidentState.INTERRUPTED
    done = {step.id for step in steps if step.status.nothing_missing}
    missing = set(header.planned) - done - set(header.optional)
    return IncidentState.INCOMPLETE if missing else IncidentState.COMPLETE


def _unrecorded(fd: int, recorded: set[str]) -> Iterator[ArtifactRecord]:
    """Yield the files in the steps' directories that have no record."""
    for path, status in tree.files(fd):
        if "/" in path and path not in recorded:
            size, data = status.st_size, min(status.st_size, status.st_blocks * 512)
            if path.endswith(layout.PART) and layout.is_artifact_path(path):
                size, data = directory.give_back(path, fd)
            yield ArtifactRecord(
                path=path, size_bytes=size, data_bytes=data, truncated=True, truncated_reason=UNRECORDED
            )
