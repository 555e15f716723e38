"""What a worker does with light evidence: read it into memory, as fast as it can; write it, once there is a place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing

import msgspec

from collector.archive.store import Store
from collector.collectors.base import Context
from collector.copying import buffers
from collector.copying.rate.throttle import always_go, ignore
from collector.host.files import Host
from collector.host.guarded_read import wedged_threads
from collector.model.artifact import Bulk, HardLink
from collector.model.errors import CollectorError
from collector.model.incident import StepEnd, StepStatus
from collector.runner import spool
from collector.runner.artifacts import Writer, in_short
from collector.runner.protocol import Done, ReadStep, WriteSpool, Written


def read_step(job: ReadStep) -> Done:
    """
    Read what the collector yields, up to its first file or to the end of the memory; the rest is for later.

    This alone of all jobs runs at the priority that a worker sleeps at.

    Raises:
        CollectorError: As the collector does; what it had yielded before is kept.
    """
    kept = spool.Spool(buffers.spool_memory(), fresh=job.fresh)
    ctx = Context(host=Host(), marker=job.marker, deadline_s=job.deadline_s, redaction=job.redaction)
    count, rest = 0, False
    with closing(job.collector.collect(ctx)) as artifacts:  # type: ignore[type-var]
        for artifact in artifacts:
            if isinstance(artifact.body, Bulk | HardLink):
                os.close(artifact.body.fd)
                rest = True
                break
            try:
                kept.put(job.step, artifact)
            except spool.FullError:
                rest = True
                break
            count += 1
    return Done(artifacts=count, rest=rest, tainted=wedged_threads() > 0)


def write(job: WriteSpool, memories: Sequence[int]) -> Done:
    """Write all that *memories* hold, one file after the other, and sync it once; a step that fails costs itself."""
    writers: dict[str, Writer] = {}
    failed: dict[str, str] = {}
    with Store(job.archive) as store:
        with ExitStack() as stack:
            incident_fd = stack.enter_context(store.incident(job.incident))
            for memory in memories:
                for head, body in stack.enter_context(spool.opened(memory)):
                    if head.step not in writers:
                        writers[head.step] = _writer(job, store, incident_fd, head.step)
                    if head.step not in failed:
                        _write(writers[head.step], head, body, failed)
            for writer in writers.values():
                writer.sync()
        written = tuple(_written(writer, failed.get(step)) for step, writer in writers.items())
        store.record_steps(job.incident, [with_losses(end, written) for end in job.ends])
    return Done(
        written=written,
        artifacts=sum(part.artifacts for part in written),
        size_bytes=sum(part.size_bytes for part in written),
    )


def with_losses(end: StepEnd, written: Sequence[Written]) -> StepEnd:
    """Return how a step ended, with what was cut in reading it and lost in writing it."""
    part = next((part for part in written if part.step == end.id), None)
    if part is None or part.status is StepStatus.OK:
        return end
    reasons = (part.reason,) if end.status is StepStatus.OK else (end.reason, part.reason)
    status = part.status if end.status in (StepStatus.OK, StepStatus.TRUNCATED) else end.status
    return msgspec.structs.replace(end, status=status, reason="; ".join(reasons))


def _writer(job: WriteSpool, store: Store, incident_fd: int, step: str) -> Writer:
    return Writer(
        incident_fd=incident_fd,
        step=step,
        copy=job.copy,
        reserve_bytes=job.reserve_bytes,
        ask=always_go,  # a few MiB that are in memory already, whatever happens meanwhile
        progress=ignore,
        written=store.recorded(job.incident, step) if job.again else frozenset(),
        again=job.again,
    )


def _write(writer: Writer, head: spool.SpoolRecord, body: memoryview, failed: dict[str, str]) -> None:
    try:
        writer.write(spool.artifact_of(head, body), read_s=head.read_s)
    except (CollectorError, OSError) as exc:
        failed[head.step] = str(exc)


def _written(writer: Writer, failed: str | None) -> Written:
    status = StepStatus.FAILED if failed else StepStatus.TRUNCATED if writer.truncated else StepStatus.OK
    return Written(
        step=writer.step,
        artifacts=writer.count,
        size_bytes=writer.size_bytes,
        status=status,
        reason=failed or in_short(writer.truncated),
    )
