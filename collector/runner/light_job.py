"""What a worker does with light evidence: read it into memory first, write it to the incident later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing

import msgspec

from collector.archive.store import Store
from collector.copying import buffers
from collector.copying.rate.throttle import always_go
from collector.model.artifact import Bulk, HeldUse, Incoming, NotApplicable, Truncated
from collector.model.errors import CollectorError
from collector.model.incident import StepEnd, StepStatus
from collector.runner import spool
from collector.runner.artifacts import ENDS, Writer
from collector.runner.held_job import context_of
from collector.runner.protocol import ReadStep, WriteSpool
from collector.runner.replies import Done, Written

READ = (StepStatus.OK, StepStatus.TRUNCATED, StepStatus.NOT_APPLICABLE)
"""How a step ends whose collector came to its end."""


def read_step(job: ReadStep, fds: Sequence[int]) -> Done:
    """
    Read what the collector yields, up to its first file or until the memory is full; the rest is left for later.

    Of a dump, for which the process is held, there is no later: what fits of it is kept.

    Raises:
        CollectorError: From the collector; what it yielded before that is kept.
    """
    kept = spool.Spool(buffers.spool_memory(), fresh=job.fresh)
    count = 0
    now_or_never = job.held is not None and job.collector.footprint.held is HeldUse.DUMP
    try:
        with ExitStack() as stack:
            ctx = stack.enter_context(context_of(job, fds, in_memory=True))
            artifacts = stack.enter_context(closing(job.collector.collect(ctx)))  # type: ignore[type-var]
            for artifact in artifacts:
                if isinstance(artifact.body, Bulk | Incoming):
                    if isinstance(artifact.body, Bulk):
                        os.close(artifact.body.fd)
                    return Done(artifacts=count, rest=True)
                try:
                    kept.put(job.step, artifact, part=now_or_never)
                except spool.FullError as exc:
                    if now_or_never:
                        return Done(status=StepStatus.TRUNCATED, reason=str(exc), artifacts=count)
                    return Done(artifacts=count, rest=True)
                count += 1
    except (Truncated, NotApplicable) as exc:
        return Done(status=ENDS[type(exc)], reason=exc.reason, artifacts=count)
    return Done(artifacts=count)


def write(job: WriteSpool, memories: Sequence[int]) -> Done:
    """Write everything that *memories* hold, then sync it once; a step that fails does not affect the others."""
    writers: dict[str, Writer] = {}
    failed: dict[str, str] = {}
    with Store(job.archive) as store:
        with ExitStack() as stack:
            incident_fd = stack.enter_context(store.incident(job.incident))
            recorded = store.recorded(job.incident)
            for memory in memories:
                for head, body in stack.enter_context(spool.opened(memory)):
                    if head.step not in writers:
                        writers[head.step] = Writer(
                            incident_fd=incident_fd,
                            step=head.step,
                            copy=job.copy,
                            reserve_bytes=job.reserve_bytes,
                            ask=always_go,  # the few MiB are in memory already: writing them must not wait
                            skipped=recorded,
                            replaces=True,
                        )
                    if head.step not in failed:
                        _write(writers[head.step], head, body, failed)
            for writer in writers.values():
                writer.sync()
        written = tuple(writer.written(failed.get(step, "")) for step, writer in writers.items())
        store.record_steps(job.incident, [with_losses(end, written) for end in job.ends])
    return Done(
        written=written,
        artifacts=sum(part.artifacts for part in written),
        size_bytes=sum(part.size_bytes for part in written),
    )


def with_losses(end: StepEnd, written: Sequence[Written]) -> StepEnd:
    """Return how a step ended, with what was truncated or lost in writing it."""
    part = next((part for part in written if part.step == end.id), None)
    if part is None or part.status is StepStatus.OK:
        return end
    reasons = (part.reason,) if end.status is StepStatus.OK else (end.reason, part.reason)
    status = part.status if end.status in READ else end.status
    return msgspec.structs.replace(end, status=status, reason="; ".join(reasons))


def _write(writer: Writer, head: spool.SpoolRecord, body: memoryview, failed: dict[str, str]) -> None:
    try:
        writer.write(spool.artifact_of(head, body), read_s=head.read_s)
    except (CollectorError, OSError) as exc:
        failed[head.step] = str(exc)
