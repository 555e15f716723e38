"""What a worker can do: one function per job."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from collector.archive import clock, handover
from collector.archive.digests import add_digests, undigested
from collector.archive.prune import prune
from collector.archive.read import ArchiveReader
from collector.archive.seal import seal
from collector.archive.store import Store
from collector.copying import buffers, hashing
from collector.host import process
from collector.model.artifact import NotApplicable, Truncated
from collector.model.copying import Advice, Digest, Feedback
from collector.model.incident import StepStatus
from collector.model.pressure import Budget, StepClass
from collector.model.text import printable
from collector.pressure.feedback import GateFeedback
from collector.pressure.sampler import Sampler
from collector.runner import light_job, recorder_job
from collector.runner.artifacts import ENDS, Writer
from collector.runner.begin_job import begin
from collector.runner.continue_job import continue_incident
from collector.runner.core_removal_job import remove_cores
from collector.runner.earlier import EarlierFiles
from collector.runner.handover_job import hand_over
from collector.runner.held_job import context_of, open_files
from collector.runner.parcel import unpacked
from collector.runner.protocol import (
    AddDigests,
    Begin,
    Continue,
    FindHandovers,
    FindUndigested,
    HandOver,
    Job,
    KeepClock,
    OpenFiles,
    Prune,
    ReadStep,
    RecordSteps,
    Recover,
    Release,
    RemoveCores,
    RunStep,
    Seal,
    Summarize,
    VisitProcesses,
    WriteSeconds,
    WriteSpool,
)
from collector.runner.recover_job import recover
from collector.runner.replies import Done
from collector.runner.reporter import Reporter
from collector.runner.summaries_job import summarize

SHOWN = 3
"""Problems of a job that its reply lists; it is limited in length."""

OWNER_SHOWN = 40


def perform(  # noqa: PLR0911, PLR0912 - one per job
    job: Job, fds: Sequence[int], sampler: Sampler, report: Reporter
) -> tuple[Done, int | None]:
    """Do *job*, with the descriptors that came with it; return how it ended, and a descriptor for the supervisor."""
    if not isinstance(job, Begin | ReadStep | OpenFiles | WriteSpool):
        buffers.spool_done()
    match job:
        case Begin():
            return begin(job)
        case Continue():
            return continue_incident(job)
        case ReadStep():
            return light_job.read_step(job, fds), None
        case OpenFiles():
            return open_files(job, fds), None
        case WriteSpool():
            return light_job.write(job, fds), None
        case RunStep():
            return _run_step(job, fds, sampler, report), None
        case RecordSteps():
            with Store(job.archive) as store:
                store.record_steps(job.incident, job.ends)
            return Done(), None
        case WriteSeconds():
            return recorder_job.write_seconds(job), None
        case VisitProcesses():
            return recorder_job.visit_processes(), None
        case Seal():
            return _seal(job), None
        case Recover():
            return recover(job), None
        case Prune():
            with ArchiveReader(job.archive) as archive:
                return _prune(archive, job), None
        case KeepClock():
            with ArchiveReader(job.archive) as archive:
                clock.advance(archive.fd)
            return Done(), None
        case Release():
            process.release_memory(job.pid)
            return Done(), None
        case AddDigests():
            return _add_digests(job, sampler, report), None
        case RemoveCores():
            return _remove_cores(job, sampler, report), None
        case HandOver():
            return hand_over(job, report), None
        case FindHandovers():
            with ArchiveReader(job.archive) as archive:
                found, more = handover.waiting(archive.fd, limit=job.limit)
            return Done(waiting=tuple(found), more=more), None
        case Summarize():
            return summarize(job)
        case FindUndigested():
            with ArchiveReader(job.archive) as archive:
                return Done(ids=tuple(undigested(archive, job.limit))), None


def _prune(archive: ArchiveReader, job: Prune) -> Done:
    done = prune(archive, job.rules, reserve=job.reserve, spare=job.spare)
    found, gone = (sum(one.size_bytes for one in incidents) for incidents in (done.found, done.gone))
    return Done(
        ids=tuple(one.id for one in done.gone),
        owners=tuple(printable(one.owner, limit=OWNER_SHOWN) for one in done.gone),
        unsent=done.unsent,
        kept=(len(done.found) - len(done.gone), found - gone),
        reason="; ".join(done.problems[:SHOWN]),
    )


def _run_step(job: RunStep, fds: Sequence[int], sampler: Sampler, report: Reporter) -> Done:
    # What is taken instead of a dump takes its time, too: of a short hold, it needs the larger part.
    part = 0.1 if job.held is None else 0.3
    margin_s = min(1.0, part * max(0.0, job.deadline_s - time.monotonic()))
    sampler.continue_from(job.ticks)
    with Store(job.archive) as store, store.incident(job.incident) as incident_fd:
        gate = GateFeedback(
            sampler=sampler,
            disk_fd=incident_fd,
            limits=job.limits,
            budget=job.budget,
            reserve_bytes=job.reserve_bytes,
            stop_at_s=job.deadline_s - margin_s,
            holds=job.held is not None,
            waited_s=job.waited_s,
        )

        def ask() -> Feedback:
            return Feedback(Advice.STOP, "the collector was stopped") if report.stopped() else report.heard(gate())

        writer = Writer(
            incident_fd=incident_fd,
            step=job.step,
            copy=job.copy,
            reserve_bytes=max(job.reserve_bytes, job.kept_free_bytes),
            ask=ask,
            progress=report.progress,
            skipped=store.recorded(job.incident) if job.goes_on and not job.continues else frozenset(),
            continues=job.continues,
        )
        earlier = EarlierFiles(incident_fd, job.step) if job.continues else None
        status, reason = (job.opened.status, job.opened.reason) if job.opened else (StepStatus.OK, "")
        try:
            with (
                context_of(job, fds, earlier=earlier) as ctx,
                closing(unpacked(fds[-1]) if job.opened else job.collector.collect(ctx)) as artifacts,  # type: ignore[type-var]
            ):
                for artifact in earlier.left(artifacts) if earlier else artifacts:
                    writer.write(artifact)
        except (Truncated, NotApplicable) as exc:
            status, reason = ENDS[type(exc)], exc.reason
        finally:
            writer.sync()
    written = writer.written()
    if written.status is not StepStatus.OK:
        status = written.status if status in light_job.READ else status
        reason = "; ".join(filter(None, (reason, written.reason)))
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
            hold=job.hold,
        )
    sizes = [artifact.data_bytes for artifact in manifest.artifacts()]
    return Done(state=manifest.state, artifacts=len(sizes), size_bytes=sum(sizes))


def _yielding(
    job: AddDigests | RemoveCores, archive: ArchiveReader, sampler: Sampler, report: Reporter
) -> Callable[[], Feedback]:
    """Return what gives advice to a job that makes way for every incident."""
    gate = GateFeedback(
        sampler=sampler,
        disk_fd=archive.fd,
        limits=job.limits,
        budget=Budget(step_class=StepClass.DIRECT, memory_bytes=0),
        reserve_bytes=0,
        stop_at_s=job.deadline_s - 1.0,
    )
    return lambda: Feedback(Advice.STOP, "an incident goes first") if report.interrupted() else gate()


def _remove_cores(job: RemoveCores, sampler: Sampler, report: Reporter) -> Done:
    with ArchiveReader(job.archive) as archive:
        ask = _yielding(job, archive, sampler, report)
        return remove_cores(job, lambda fd, kind: hashing.digest_again(fd, kind, rate=job.copy.rate, ask=ask))


def _add_digests(job: AddDigests, sampler: Sampler, report: Reporter) -> Done:
    with ArchiveReader(job.archive) as archive:
        ask = _yielding(job, archive, sampler, report)

        def digest_of(fd: int) -> str:
            return hashing.digest(fd, algorithm=Digest.XXH3_128, rate=job.copy.rate, ask=ask, progress=report.progress)

        return Done(artifacts=add_digests(archive, job.incident, digest_of))
