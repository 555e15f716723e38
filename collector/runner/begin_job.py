"""What a worker does to open an incident: it sees to the disk's space, and makes the directory."""

from __future__ import annotations

import os

from collector.archive import directory, layout
from collector.archive.prune import Pruned, inventory, prune
from collector.archive.read import ArchiveReader
from collector.archive.retention import holds_most, room_for
from collector.archive.store import Store
from collector.host import syscalls
from collector.host.filesystem import holds_memory, nearest_directory
from collector.model.errors import ArchiveError, PressureError
from collector.model.owners import is_protected
from collector.model.text import printable
from collector.model.units import mib
from collector.pressure.sampler import sample_disk
from collector.runner.protocol import Begin
from collector.runner.replies import Done

METADATA_BYTES = 4 << 20
"""Space beyond the reserve that an incident's own records may need."""

OWNER_SHOWN = 40


def begin(job: Begin) -> tuple[Done, int]:
    refuse_memory(job.archive)
    with Store(job.archive) as store, ArchiveReader(job.archive) as archive:
        reserve = job.reserve.bytes_of(sample_disk(store.fd).total_bytes)
        pruned = _make_room(job, archive, reserve)
        free = kept_free(archive, job.header.owner, reserve)
        lock = store.begin(job.header, hands_over=job.hands_over)
        direct = supports_direct_io(lock)
        ids, unsent = tuple(kept.id for kept in pruned.gone), pruned.unsent
        done = Done(reserve_bytes=reserve, kept_free_bytes=free, ids=ids, unsent=unsent, direct=direct)
        return done, lock


def kept_free(archive: ArchiveReader, owner: str, reserve: int) -> int:
    """Return what an incident's copies must leave free: the reserve, and the shares of others."""
    if is_protected(owner) or os.geteuid() != 0:  # without root, the archive is the user's own
        return reserve
    free = sample_disk(archive.fd).free_bytes
    held = inventory(archive)
    share = room_for(
        free_bytes=free - reserve,
        held_bytes=sum(kept.size_bytes for kept in held),
        roots_bytes=sum(kept.size_bytes for kept in held if is_protected(kept.owner)),
    )
    return free - max(share, METADATA_BYTES)


def supports_direct_io(incident_fd: int) -> bool:
    """Ask about a file of the incident; where the kernel does not know, assume so: the copy engine will try."""
    with directory.opened_file(layout.HEADER, incident_fd) as fd:
        offered = syscalls.direct_alignment(fd)
    return offered is None or offered.offset > 0


def refuse_memory(archive: str) -> None:
    """Refuse an archive on tmpfs before anything is created there."""
    if holds_memory(nearest_directory(archive)):
        raise ArchiveError(
            f"the archive {archive} is on tmpfs: writing there takes memory, which is short",
            hint="set archive.path to a directory on a disk",
        )


def _make_room(job: Begin, archive: ArchiveReader, reserve: int) -> Pruned:
    """
    Apply retention if the disk has no room even for an incident's own records; return what was deleted.

    If the archive is within its rules, others have filled the disk. Nothing is deleted for them: the incident is
    refused, and whoever fills the disk again and again erases nothing.

    Raises:
        PressureError: If there is no room.
    """
    need = reserve + METADATA_BYTES
    if sample_disk(archive.fd).free_bytes >= need:
        return Pruned([], [], [])
    pruned = prune(archive, job.keep, reserve=job.reserve)
    if (free := sample_disk(archive.fd).free_bytes) >= need:
        return pruned
    found = inventory(archive)
    held = sum(kept.size_bytes for kept in found)
    whose = f", most of it {printable(owner, limit=OWNER_SHOWN)}'s" if (owner := holds_most(found)) else ""
    raise PressureError(
        f"the disk of {job.archive} has {mib(free)} free and needs {mib(need)}:"
        f" its reserve of {mib(reserve)}, and {mib(METADATA_BYTES)} for an incident's records;"
        f" the archive, which is within archive.keep, has {mib(held)}{whose}",
        hint="free some space, lower archive.reserve, or lower archive.keep.size to what the disk can spare",
    )
