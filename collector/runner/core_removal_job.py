"""What a worker does to keep directories of cores bounded: it removes cores that are archived, as the rules say."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator
from itertools import islice

from collector.archive.read import ArchiveReader
from collector.archive.retention import KeptIncident, beyond
from collector.host.files import Host, OpenFd
from collector.host.trusted_path import SEARCH_FLAGS, find_directory, identity, readable
from collector.model.errors import CopyError, StepError
from collector.model.incident import StepStatus
from collector.model.owners import Owners
from collector.model.units import size
from collector.runner.core_removal import KeptCoreFile, archived_core, is_there, remove
from collector.runner.protocol import CoreRule, RemoveCores
from collector.runner.replies import Done, RemovedCores

BATCH = 200
"""Most cores that are removed at a time: the reply lists them, and its length is limited."""

MAX_FILES = 100_000
"""Most files of a trigger's directories that are counted for `size`; the others are not measured."""


def remove_cores(job: RemoveCores, digest_of: Callable[[int, str], str]) -> Done:
    """Remove what the rules say, the oldest first; *rest* of the result: there is more."""
    cores_removed: list[RemovedCores] = []
    with ArchiveReader(job.archive) as archive:
        found = (archived_core(archive, incident) for incident in archive.ids())
        kept = [one for one in found if one is not None and is_there(one.core)]
        for rule in job.rules:
            own = [one for one in kept if one.trigger == rule.trigger and rule.files.covers(one.core.path)]
            chosen, problem = (own, "") if rule.remove else _beyond_size(rule, own, identity(archive.fd))
            removed: list[str] = []
            size_bytes = 0
            try:
                for one in chosen:
                    if len(removed) == BATCH:
                        break
                    why = remove(archive, one, digest_of)
                    problem = problem or why
                    if not is_there(one.core):
                        removed.append(f"{one.core.device}:{one.core.inode}")
                        size_bytes += one.core.size_bytes
            except CopyError as exc:  # stopped
                cores_removed.append(RemovedCores(rule.trigger, tuple(removed), size_bytes, problem))
                return Done(status=StepStatus.SKIPPED, reason=str(exc), cores_removed=tuple(cores_removed), rest=True)
            cores_removed.append(RemovedCores(rule.trigger, tuple(removed), size_bytes, problem))
    return Done(cores_removed=tuple(cores_removed), rest=any(len(one.removed) == BATCH for one in cores_removed))


def _beyond_size(rule: CoreRule, own: list[KeptCoreFile], archive: tuple[int, int]) -> tuple[list[KeptCoreFile], str]:
    """
    Return the cores to remove so that a trigger's directories are within its size, and what is in the way of that.

    The oldest of the user who holds most goes, again and again; what is not archived stays, and he alone pays for it.
    """
    limit = rule.size_bytes or 0
    archived = {(one.core.device, one.core.inode): one for one in own}
    owners, known, there = Owners(), {}, []
    for number, info in enumerate(islice(_files(rule, archive), MAX_FILES)):
        place = info.st_dev, info.st_ino
        name = f"{info.st_dev}:{info.st_ino}"
        known[name] = archived.get(place)
        order = own.index(archived[place]) if place in archived else len(own) + number
        there.append(
            KeptIncident(
                id=name, number=order, age_s=None, size_bytes=info.st_blocks * 512, owner=owners.of(info.st_uid)
            )
        )
    there.sort(key=lambda one: one.order)
    gone = beyond(limit, lambda one: one.size_bytes, there, {name for name, one in known.items() if one is None})
    left = sum(one.size_bytes for one in there if one.id not in gone)
    problem = ""
    if left > limit:
        problem = f"{size(left)} of cores that are not archived are more than `size`: remove them, or raise it"
    return [one for name, one in known.items() if name in gone and one is not None], problem


def _files(rule: CoreRule, archive: tuple[int, int]) -> Iterator[os.stat_result]:
    """Yield the fstat of each file that a trigger wants, once."""
    seen: set[tuple[int, int]] = set()
    for pattern in rule.files.paths:
        for path in glob.iglob(pattern):
            try:
                found = find_directory(Host(), path, avoid=(archive,))
            except (StepError, OSError):
                continue
            with OpenFd(found.fd):
                for info in _files_in(rule, found.fd, path, rule.files.depth):
                    if (info.st_dev, info.st_ino) not in seen:
                        seen.add((info.st_dev, info.st_ino))
                        yield info


def _files_in(rule: CoreRule, fd: int, path: str, depth: int) -> Iterator[os.stat_result]:
    try:
        with OpenFd(readable(fd)) as listed:
            names = os.listdir(listed)
    except OSError:
        return
    for name in names:
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode) and rule.files.covers(f"{path}/{name}"):
                yield info
            elif stat.S_ISDIR(info.st_mode) and depth > 0:
                with OpenFd(os.open(name, SEARCH_FLAGS, dir_fd=fd)) as inner:
                    yield from _files_in(rule, inner, f"{path}/{name}", depth - 1)
        except OSError:
            continue
