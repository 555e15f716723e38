"""What a worker can do: one function a job."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Protocol

from collector.archive import directory, layout
from collector.archive.digests import add_digests, undigested
from collector.archive.prune import inventory, prune
from collector.archive.read import Archive
from collector.archive.seal import seal
from collector.archive.store import Store
from collector.collectors.base import Context
from collector.copying import buffers, readback
from collector.host import process, syscalls
from collector.host.files import Host
from collector.host.filesystem import holds_memory, nearest_directory
from collector.host.guarded_read import wedged_threads
from collector.model.copying import Advice, Digest, Feedback
from collector.model.errors import ArchiveError, PressureError
from collector.model.incident import IncidentState, StepStatus
from collector.model.pressure import Budget, DiskSample, StepClass
from collector.model.retention import RetentionRules
from collector.model.units import mib
from collector.pressure.feedback import GateFeedback
from collector.pressure.sampler import Sampler, sample_disk
from collector.runner import light_job
from collector.runner.artifacts import Writer, in_short
from collector.runner.protocol import (
    AddDigests,
    Begin,
    Done,
    FindUndigested,
    Job,
    Prune,
    ReadStep,
    Record,
    Recover,
    Release,
    RunStep,
    Seal,
    WriteSpool,
)

UNSEALABLE = "what it holds is in its .partial directory; the next start tries again"

METADATA_BYTES = 4 << 20
"""Room that an incident's own records may need beyond the reserve."""

RECOVER_PAUSE_S = 0.05

Answer = tuple[Done, int | None]


class Report(Protocol):
    """What a job tells the supervisor meanwhile, and hears from it."""

    def progress(self, size_bytes: int) -> None:
        """Tell the bytes written so far."""
        ...

    def interrupted(self) -> bool:
        """Tell whether the worker is wanted for something else."""
        ...

    def stopped(self) -> bool:
        """Tell whether the program must end."""
        ...


def perform(job: Job, fds: Sequence[int], sampler: Sampler, report: Report) -> Answer:  # noqa: PLR0911 - one a job
    """Do *job*, with the descriptors that came with it; return its end, and a descriptor if it has one."""
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
        case Record():
            with Store(job.archive) as store:
                store.record_steps(job.incident, job.ends)
            return Done(), None
        case Seal():
            return _seal(job), None
        case Recover():
            return _recover(job), None
        case Prune():
            with Archive(job.archive) as archive:
                return Done(ids=tuple(prune(archive, job.rules, now_s=job.now_s, spare=job.spare))), None
        case Release():
            process.release_memory(job.pid)
            return Done(), None
        case AddDigests():
            return _add_digests(job, sampler, report), None
        case FindUndigested():
            with Archive(job.archive) as archive:
                return Done(ids=tuple(undigested(archive, job.limit))), None


def _begin(job: Begin) -> Answer:
    _refuse_memory(job.archive)
    with Store(job.archive) as store:
        disk = sample_disk(store.fd)
        reserve = job.reserve.bytes_of(disk.total_bytes)
        pruned = _make_room(job, disk, reserve)
        lock = store.begin(job.header)
        return Done(reserve_bytes=reserve, ids=pruned, direct=_takes_direct_writes(lock)), lock


def _takes_direct_writes(incident_fd: int) -> bool:
    """Look at a file of the incident's own: where the kernel does not tell, the engine will try."""
    with directory.opened_file(layout.HEADER, incident_fd) as fd:
        offered = syscalls.direct_alignment(fd)
    return offered is None or offered.offset > 0


def _refuse_memory(archive: str) -> None:
    """Look at the file system before anything is made on it."""
    if holds_memory(nearest_directory(archive)):
        raise ArchiveError(
            f"the archive {archive} is on tmpfs: writing there takes the memory that is short",
            hint="set archive.path to a directory on a disk",
        )


def _make_room(job: Begin, disk: DiskSample, reserve: int) -> tuple[str, ...]:
    """Delete old incidents if the disk has not even room for an incident's own records; return which."""
    need = reserve + METADATA_BYTES
    missing = need - disk.free_bytes
    if missing <= 0:
        return ()
    rules = RetentionRules(count=None, age_s=None, size_bytes=None)
    with Archive(job.archive) as archive:
        held = {kept.id: kept.size_bytes for kept in inventory(archive)}
        doomed = prune(archive, rules, now_s=job.header.started_s, need_bytes=missing, dry_run=True)
        if sum(held[incident] for incident in doomed) < missing:  # nothing is deleted for nothing
            raise PressureError(
                f"the disk of {job.archive} has {mib(disk.free_bytes)} free and needs {mib(need)}:"
                f" its reserve of {mib(reserve)}, and {mib(METADATA_BYTES)} for an incident's records",
                hint="free some space, or lower archive.reserve",
            )
        return tuple(prune(archive, rules, now_s=job.header.started_s, need_bytes=missing))


def _run_step(job: RunStep, sampler: Sampler, report: Report) -> Done:
    margin_s = min(1.0, 0.1 * max(0.0, job.deadline_s - time.monotonic()))
    sampler.take_up(job.ticks)
    with Store(job.archive) as store, store.incident(job.incident) as incident_fd:
        gate = GateFeedback(
            sampler,
            incident_fd,
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
            written=store.recorded(job.incident, job.step) if job.goes_on else frozenset(),
        )
        ctx = Context(host=Host(), marker=job.marker, deadline_s=job.deadline_s, redaction=job.redaction)
        try:
            with closing(job.collector.collect(ctx)) as artifacts:  # type: ignore[type-var]
                for artifact in artifacts:
                    writer.write(artifact)
        finally:
            writer.sync()
    return Done(
        status=StepStatus.TRUNCATED if writer.truncated else StepStatus.OK,
        reason=in_short(writer.truncated),
        artifacts=writer.count,
        size_bytes=writer.size_bytes,
        waited_s=round(gate.waited_s - job.waited_s, 3),
        speed_changes=tuple(gate.changes),
        more_changes=gate.more_changes,
        tainted=wedged_threads() > 0,
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
    return Done(
        state=manifest.state,
        artifacts=sum(len(step.artifacts) for step in manifest.steps),
        size_bytes=sum(artifact.data_bytes for step in manifest.steps for artifact in step.artifacts),
    )


def _recover(job: Recover) -> Done:
    if not os.path.isdir(job.archive):
        _refuse_memory(job.archive)  # before it is made, which is now: the ledger goes there
    sealed: dict[str, IncidentState] = {}
    bad: dict[str, str] = {}
    until_s = time.monotonic() + job.wait_s
    with Store(job.archive) as store:
        store.clear_unopened()
        while left := [incident for incident in store.under_way() if incident not in bad]:
            for incident in left:
                _take_up(store, incident, job.now_s, sealed, bad)
            if time.monotonic() >= until_s:
                break
            time.sleep(RECOVER_PAUSE_S)
    return Done(sealed=sealed, reason="; ".join(bad.values()), hint=UNSEALABLE if bad else None)


def _take_up(store: Store, incident: str, now_s: float, sealed: dict[str, IncidentState], bad: dict[str, str]) -> None:
    """Seal an incident that nobody works on any more; one that cannot be sealed stays as it is, and is told."""
    with store.claimed(incident + layout.PARTIAL) as ours:
        if not ours:
            return
        try:
            manifest = seal(store, incident, ended_s=now_s, interrupted=True)
        except (ArchiveError, OSError, MemoryError) as exc:
            bad[incident] = f"{incident} cannot be sealed: {exc}"
        else:
            # A run that was killed between manifest and name had come to its end: the manifest says how.
            sealed[incident] = manifest.state


def _add_digests(job: AddDigests, sampler: Sampler, report: Report) -> Done:
    with Archive(job.archive) as archive:
        gate = GateFeedback(
            sampler,
            archive.fd,
            limits=job.limits,
            budget=Budget(step_class=StepClass.DIRECT, memory_bytes=0),
            reserve_bytes=0,
            stop_at_s=job.deadline_s - 1.0,
        )

        def ask() -> Feedback:
            return Feedback(Advice.STOP, "an incident goes first") if report.interrupted() else gate()

        def digest_of(fd: int) -> str:
            return readback.digest(fd, algorithm=Digest.XXH3_128, rate=job.copy.rate, ask=ask, progress=report.progress)

        return Done(artifacts=add_digests(archive, job.incident, digest_of))
