"""What a worker does with a process that the kernel holds: it sees it as `Context.held`, and opens files through it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing

from collector.collectors.base import Context, Earlier
from collector.host.files import Host
from collector.host.held_process import HeldProcess
from collector.model.artifact import NotApplicable, Truncated
from collector.model.incident import StepStatus
from collector.runner.artifacts import ENDS
from collector.runner.parcel import ParcelSender
from collector.runner.protocol import HeldJob, OpenFiles, ReadStep, RunStep
from collector.runner.replies import Done


def held_job(process: HeldProcess | None) -> HeldJob | None:
    """Return what a job says of a process, whose `fds_of` go with it; ``None`` if there is none that is held."""
    if process is None or not process.is_held:
        return None
    return HeldJob(
        process=process.process,
        source=process.source,
        since_s=process.since_s,
        deadline_s=process.deadline_s,
        hurry=process.hurry,
    )


def fds_of(process: HeldProcess | None) -> tuple[int, ...]:
    """Return the descriptors that go with `held_job`."""
    return () if process is None or not process.is_held else (process.stream_fd, process.pidfd)


@contextlib.contextmanager
def context_of(
    job: ReadStep | OpenFiles | RunStep,
    fds: Sequence[int],
    *,
    in_memory: bool = False,
    earlier: Earlier | None = None,
) -> Iterator[Context]:
    """Yield what the collector of a job may use, with the process that is held, if there is one; see `held_process`."""
    with held_process(job.held, fds) as held:
        yield Context(
            host=Host(),
            marker=job.marker,
            deadline_s=job.deadline_s,
            redaction=job.redaction,
            held=held,
            incident=job.incident if isinstance(job, RunStep) else "",
            in_memory=in_memory,
            earlier=earlier,
        )


@contextlib.contextmanager
def held_process(job: HeldJob | None, fds: Sequence[int]) -> Iterator[HeldProcess | None]:
    """Yield the process of a job, whose descriptors are the first of *fds*: the caller's, and open for the job only."""
    if job is None:
        yield None
        return
    held = HeldProcess(
        process=job.process,
        source=job.source,
        stream_fd=os.dup(fds[0]),
        pidfd=os.dup(fds[1]),
        since_s=job.since_s,
        deadline_s=job.deadline_s,
        hurry=job.hurry,
    )
    try:
        yield held
    finally:
        for fd in fds_of(held):  # as a rule: its collector does not let it go
            os.close(fd)


def open_files(job: OpenFiles, fds: Sequence[int]) -> Done:
    """
    Run a collector to its end, and put what it yields into the parcel that is the last of *fds*.

    Raises:
        CollectorError: From the collector; what it yielded before that is in the parcel.
    """
    status, reason = StepStatus.OK, ""
    with context_of(job, fds) as ctx, closing(ParcelSender(fds[-1])) as parcel:
        try:
            with closing(job.collector.collect(ctx)) as artifacts:  # type: ignore[type-var]
                for artifact in artifacts:
                    parcel.put(artifact)
        except (Truncated, NotApplicable) as exc:
            status, reason = ENDS[type(exc)], exc.reason
    if parcel.left_out:
        said = f"{parcel.left_out} files could not be kept open until they are copied: {parcel.why}"
        status, reason = StepStatus.TRUNCATED, "; ".join(filter(None, (reason, said)))
    return Done(status=status, reason=reason)
