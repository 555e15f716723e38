"""What a worker can do: one function per job."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing

from collector.archive import clock, directory, layout
from collector.archive.digests import add_digests, undigested
from collector.archive.prune import inventory, prune
from collector.archive.read import ArchiveReader
from collector.archive.seal import seal
from collector.archive.store import Store
from collector.collectors.base import Context
from collector.copying import buffers, hashing
from collector.host import process, syscalls
from collector.host.files import Host
from collector.host.filesystem import holds_memory, nearest_directory
from collector.model.artifact import NotApplicable, Truncated
from collector.model.copying import Advice, Digest, Feedback
from collector.model.errors import ArchiveError, PressureError
from collector.model.incident import IncidentState, StepStatus
from collector.model.pressure import Budget, DiskSample, StepClass
from collector.model.retention import RetentionRules
from collector.model.units import mib
from collector.pressure.feedback import GateFeedback
from collector.pressure.sampler import Sampler, sample_disk
from collector.runner import light_job
from collector.runner.artifacts import ENDS, Writer
from collector.runner.protocol import (
    AddDigests,
    Begin,
    Done,
    FindUndigested,
    Job,
    KeepClock,
    Prune,
    ReadStep,
    RecordSteps,
    Recover,
    Release,
    RunStep,
    Seal,
    WriteSpool,
)
from collector.runner.reporter import Reporter

UNSEALABLE = "its evidence is in its .partial directory; the next start tries again"

METADATA_BYTES = 4 << 20
"""Space beyond the reserve that an incident's own records may need."""

RECOVER_PAUSE_S = 0.05


def perform(  # noqa: PLR0911, PLR0912 - one per job
    job: Job, fds: Sequence[int], sampler: Sampler, report: Reporter
) -> tuple[Done, int | None]:
    """Do *job*, with the descriptors that came with it; return how it ended, and a descriptor for the supervisor."""
    if not isinstance(job, Begin | ReadStep | WriteSpool):
        buffers.spool_done()
    match job:
        case Begin():
            return _begin(job)
        case ReadStep():
            return light_job.read_step(job), None
        case WriteSpool():
            return light_job.write(job, fds), None
        case RunStep():
            return _run_step(job, sampler, report), None
        case RecordSteps():
            with Store(job.archive) as store:
                store.record_steps(job.incident, job.ends)
            return Done(), None
        case Seal():
            return _seal(job), None
        case Recover():
            return _recover(job), None
        case Prune():
            with ArchiveReader(job.archive) as archive:
                return Done(ids=tuple(prune(archive, job.rules, spare=job.spare))), None
        case KeepClock():
            with ArchiveReader(job.archive) as archive:
                clock.advance(archive.fd)
            return Done(), None
        case Release():
            process.release_memory(job.pid)
            return Done(), None
        case AddDigests():
            return _add_digests(job, sampler, report), None
        case FindUndigested():
            with ArchiveReader(job.archive) as archive:
                return Done(ids=tuple(undigested(archive, job.limit))), None


def _begin(job: Begin) -> tuple[Done, int]:
    _refuse_memory(job.archive)
    with Store(job.archive) as store:
        disk = sample_disk(store.fd)
        reserve = job.reserve.bytes_of(disk.total_bytes)
        pruned = _make_room(job, disk, reserve)
        lock = store.begin(job.header)
        return Done(reserve_bytes=reserve, ids=pruned, direct=_supports_direct_io(lock)), lock


def _supports_direct_io(incident_fd: int) -> bool:
    """Ask about a file of the incident; where the kernel does not know, assume so: the copy engine will try."""
    with directory.opened_file(layout.HEADER, incident_fd) as fd:
        offered = syscalls.direct_alignment(fd)
    return offered is None or offered.offset > 0


def _refuse_memory(archive: str) -> None:
    """Refuse an archive on tmpfs before anything is created there."""
    if holds_memory(nearest_directory(archive)):
        raise ArchiveError(
            f"the archive {archive} is on tmpfs: writing there takes memory, which is short",
            hint="set archive.path to a directory on a disk",
        )


def _make_room(job: Begin, disk: DiskSample, reserve: int) -> tuple[str, ...]:
    """Delete old incidents if the disk has no room even for an incident's own records; return their ids."""
    need = reserve + METADATA_BYTES
    missing = need - disk.free_bytes
    if missing <= 0:
        return ()
    rules = RetentionRules(count=None, age_s=None, size_bytes=None)
    with ArchiveReader(job.archive) as archive:
        held = {kept.id: kept.size_bytes for kept in inventory(archive)}
        doomed = prune(archive, rules, need_bytes=missing, dry_run=True)
        if sum(held[incident] for incident in doomed) < missing:  # deleting them would not help
            raise PressureError(
                f"the disk of {job.archive} has {mib(disk.free_bytes)} free and needs {mib(need)}:"
                f" its reserve of {mib(reserve)}, and {mib(METADATA_BYTES)} for an incident's records",
                hint="free some space, or lower archive.reserve",
            )
        return tuple(prune(archive, rules, need_bytes=missing))


def _run_step(job: RunStep, sampler: Sampler, report: Reporter) -> Done:
    margin_s = min(1.0, 0.1 * max(0.0, job.deadline_s - time.monotonic()))
    sampler.continue_from(job.ticks)
    with Store(job.archive) as store, store.incident(job.incident) as incident_fd:
        gate = GateFeedback(
            sampler=sampler,
            disk_fd=incident_fd,
            limits=job.limits,
            budget=job.budget,
            reserve_bytes=job.reserve_bytes,
            stop_at_s=job.deadline_s - margin_s,
            waited_s=job.waited_s,
        )

        def ask() -> Feedback:
            return Feedback(Advice.STOP, "the collector was stopped") if report.stopped() else gate()

        writer = Writer(
            incident_fd=incident_fd,
            step=job.step,
            copy=job.copy,
            reserve_bytes=job.reserve_bytes,
            ask=ask,
            progress=report.progress,
            skipped=store.recorded(job.incident) if job.goes_on else frozenset(),
        )
        ctx = Context(host=Host(), marker=job.marker, deadline_s=job.deadline_s, redaction=job.redaction)
        status, reason = StepStatus.OK, ""
        try:
            with closing(job.collector.collect(ctx)) as artifacts:  # type: ignore[type-var]
                for artifact in artifacts:
                    writer.write(artifact)
        except (Truncated, NotApplicable) as exc:
            status, reason = ENDS[type(exc)], exc.reason
        finally:
            writer.sync()
    written = writer.written()
    if written.status is not StepStatus.OK:
        status, reason = written.status, "; ".join(filter(None, (reason, written.reason)))
    return Done(
        status=status,
        reason=reason,
        artifacts=written.artifacts,
        size_bytes=written.size_bytes,
        waited_s=round(gate.waited_s - job.waited_s, 3),
        speed_changes=tuple(gate.changes),
        more_changes=gate.more_changes,
    )


def _seal(job: Seal) -> Done:
    with Store(job.archive) as store:
        manifest = seal(
            store,
            job.incident,
            ended_s=job.ended_s,
            interrupted=job.interrupted,
            markers=job.markers,
            ends=job.ends,
        )
    sizes = [artifact.data_bytes for artifact in manifest.artifacts()]
    return Done(state=manifest.state, artifacts=len(sizes), size_bytes=sum(sizes))


def _recover(job: Recover) -> Done:
    if not os.path.isdir(job.archive):
        _refuse_memory(job.archive)  # it is about to be created, for the ledger
    sealed: dict[str, IncidentState] = {}
    bad: dict[str, str] = {}
    until_s = time.monotonic() + job.wait_s
    with Store(job.archive) as store:
        store.clear_unopened()
        clock.advance(store.fd, seen=store.last_number())  # a power cut may have taken what was not synced
        while left := [incident for incident in store.unfinished() if incident not in bad]:
            for incident in left:
                _seal_one(store, incident, job.now_s, sealed, bad)
            if time.monotonic() >= until_s:
                break
            time.sleep(RECOVER_PAUSE_S)
    return Done(sealed=sealed, reason="; ".join(bad.values()), hint=UNSEALABLE if bad else None)


def _seal_one(store: Store, incident: str, now_s: float, sealed: dict[str, IncidentState], bad: dict[str, str]) -> None:
    """Seal an incident that no run is working on; report one that cannot be sealed, and leave it as it is."""
    with store.claimed(incident + layout.PARTIAL) as ours:
        if not ours:
            return
        try:
            manifest = seal(store, incident, ended_s=now_s, interrupted=True)
        except (ArchiveError, OSError, MemoryError) as exc:
            bad[incident] = f"{incident} cannot be sealed: {exc}"
        else:
            # If the run was killed between manifest and rename, it had finished: the manifest says how.
            sealed[incident] = manifest.state


def _add_digests(job: AddDigests, sampler: Sampler, report: Reporter) -> Done:
    with ArchiveReader(job.archive) as archive:
        gate = GateFeedback(
            sampler=sampler,
            disk_fd=archive.fd,
            limits=job.limits,
            budget=Budget(step_class=StepClass.DIRECT, memory_bytes=0),
            reserve_bytes=0,
            stop_at_s=job.deadline_s - 1.0,
        )

        def ask() -> Feedback:
            return Feedback(Advice.STOP, "an incident goes first") if report.interrupted() else gate()

        def digest_of(fd: int) -> str:
            return hashing.digest(fd, algorithm=Digest.XXH3_128, rate=job.copy.rate, ask=ask, progress=report.progress)

        return Done(artifacts=add_digests(archive, job.incident, digest_of))
