"""What a worker does with an incident that was cut off: it says whether a run may go on with it, and prepares that."""

from __future__ import annotations

import fcntl
import os

import msgspec

from collector.archive import directory, layout, tree
from collector.archive.read import ArchiveReader
from collector.archive.store import Store, header_of, journal
from collector.model.errors import ArchiveError
from collector.model.incident import Continuation, StepEnd
from collector.model.recording import STEP
from collector.pressure.sampler import sample_disk
from collector.runner.begin_job import kept_free, supports_direct_io
from collector.runner.earlier import EarlierFiles
from collector.runner.protocol import Continue
from collector.runner.replies import Done, Resumed


def may_continue(fd: int, incident: str, boot_id: str) -> bool:
    """
    Return whether the incident in *fd*, which nobody works on, can be continued.

    Only once: what kills the daemon must not do so at every start. In the same boot: after another one, what was to be
    collected is gone. And not one over its budget: all that it would have had is gone by now as well.
    """
    present = set(os.listdir(fd))
    if layout.MANIFEST in present or layout.CONTINUED in present:
        return False
    header = header_of(fd, incident)
    return header.boot_id == boot_id and not header.over_budget


def continue_incident(job: Continue) -> tuple[Done, int]:
    """
    Take the incident's lock, record that it goes on, and say how far it was.

    Raises:
        ArchiveError: If it has been continued before.
        OSError: If it is gone, or somebody else works on it.
    """
    with Store(job.archive) as store, ArchiveReader(job.archive) as archive:
        lock = os.open(job.incident + layout.PARTIAL, directory.DIRECTORY_FLAGS, dir_fd=store.fd)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            resumed = _resume(job, lock)
            reserve = job.reserve.bytes_of(sample_disk(store.fd).total_bytes)
            done = Done(
                reserve_bytes=reserve,
                kept_free_bytes=kept_free(archive, job.owner, reserve),
                direct=supports_direct_io(lock),
                resumed=resumed,
            )
        except BaseException:
            os.close(lock)
            raise
        return done, lock


def _resume(job: Continue, fd: int) -> Resumed:
    header = header_of(fd, job.incident)
    ends = {end.id: end for end in journal(fd, layout.STEPS, StepEnd)}
    before = list(journal(fd, layout.CONTINUED, Continuation))
    if not before:
        last_s = max((status.st_mtime for _, status in tree.files(fd)), default=job.record.at_s)
        record = msgspec.structs.replace(
            job.record, gap_s=round(max(0.0, job.record.at_s - last_s), 3), done=tuple(ends)
        )
        directory.append(layout.CONTINUED, msgspec.json.encode(record), fd, durable=True)
        os.fsync(fd)
    elif before[0].at_s == job.record.at_s:  # of a worker that died in this very job
        record = before[0]
    else:
        raise ArchiveError(f"incident {job.incident} has been continued before, and was cut off again")
    tried = (*header.planned, *(step.id for step in header.left_out))
    parts = [EarlierFiles(fd, step).part() for step in tried if step not in ends]
    return Resumed(
        planned=header.planned,
        left_out=header.left_out,
        ended=tuple(ends),
        begun=tuple(part for part in parts if part is not None),
        recorder=ends.get(STEP),
        gap_s=record.gap_s,
    )
