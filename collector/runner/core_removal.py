"""Removing a core that is archived from the directory where it was found, whatever happens to its name meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from collector.archive import directory, layout
from collector.archive.read import MANIFEST_LIMIT, ArchiveReader
from collector.host.files import READ_FLAGS, Host, OpenFd
from collector.host.removal import may_remove
from collector.host.syscalls import being_written
from collector.host.trusted_path import FoundDirectory, find_directory, identity
from collector.model.case import merge
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError, CopyError, StepError
from collector.model.marker import CoreRef, Marker

PIN_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_ALLOWED = "cores stay whose owner may not remove them from a directory of somebody else's"
DIFFERS = "a core stays that differs from what is archived of it"


class KeptArtifact(msgspec.Struct, frozen=True):
    """What is needed of an artifact's record."""

    path: str
    size_bytes: int = 0
    truncated: bool = False
    source_changed: bool = False
    source_mtime_ns: int | None = None
    digest: str | None = None


class KeptStep(msgspec.Struct, frozen=True):
    """What is needed of a step's record."""

    collector: str = ""
    artifacts: tuple[KeptArtifact, ...] = ()


class KeptManifest(msgspec.Struct, frozen=True):
    """What is needed of a manifest."""

    markers: tuple[Marker, ...] = ()
    steps: tuple[KeptStep, ...] = ()


class KeptCoreFile(NamedTuple):
    """A core file as it was when it was noticed by *trigger*, and the *artifact* of *incident* that is a whole copy."""

    incident: str
    artifact: KeptArtifact
    trigger: str
    core: CoreRef


def archived_core(archive: ArchiveReader, incident: str) -> KeptCoreFile | None:
    """Return the core file that an incident holds a whole copy of, with its digest; ``None`` if it holds none."""
    try:
        with archive.incident(incident) as fd:
            found = decode(directory.read(layout.MANIFEST, fd, limit=MANIFEST_LIMIT), KeptManifest)
    except (ArchiveError, MalformedError, OSError):
        return None
    core = merge(found.markers).core if found.markers else None
    if core is None:
        return None
    trigger = next(marker.trigger for marker in found.markers if marker.core == core)
    for step in found.steps:
        for one in step.artifacts:
            if step.collector == "core" and one.path.endswith("/core") and _is_whole(one, core):
                return KeptCoreFile(incident, one, trigger, core)
    return None


def is_there(core: CoreRef) -> bool:
    """Return whether a core still lies where it was found; whether it may be removed is not judged by this."""
    try:
        return _is(core, os.lstat(core.path))
    except OSError:
        return False


def remove(archive: ArchiveReader, kept: KeptCoreFile, digest_of: Callable[[int, str], str]) -> str:
    """
    Remove a core file, if it is still the one that was archived; return why it stays, if somebody should know.

    Args:
        archive: The archive.
        kept: The file, and its copy.
        digest_of: Returns the digest of an open file of the kind that is given.

    Raises:
        CopyError: From *digest_of*, which was stopped.
    """
    try:
        return _remove(archive, kept, digest_of)
    except FileNotFoundError:
        return ""
    except CopyError as exc:
        if exc.errno is None:
            raise
        return str(exc)
    except (StepError, ArchiveError) as exc:
        return str(exc)
    except OSError as exc:
        return f"cannot remove cores: {exc.strerror}"


def _remove(archive: ArchiveReader, kept: KeptCoreFile, digest_of: Callable[[int, str], str]) -> str:
    where, name = os.path.split(kept.core.path)
    found = find_directory(Host(), where, avoid=(identity(archive.fd),))
    with OpenFd(found.fd), OpenFd(os.open(name, PIN_FLAGS, dir_fd=found.fd)) as pinned:
        if not _is(kept.core, os.fstat(pinned)):
            return ""  # another file has its name by now
        if not _may_remove(found, os.fstat(pinned)):
            return NOT_ALLOWED
        with OpenFd(os.open(f"/proc/self/fd/{pinned}", READ_FLAGS | os.O_NONBLOCK)) as fd:
            why = _why_not(archive, kept, fd, digest_of)
        # Reading it may have taken minutes: what has the name now is compared once more.
        if not why and _is(kept.core, os.stat(name, dir_fd=found.fd, follow_symlinks=False)):
            os.unlink(name, dir_fd=found.fd)
        return why


def _why_not(archive: ArchiveReader, kept: KeptCoreFile, fd: int, digest_of: Callable[[int, str], str]) -> str:
    """Return why a core must stay: what is archived of it is not all that would be lost."""
    if being_written(fd):
        return "a core stays that is being written again"
    with archive.incident(kept.incident) as incident, directory.opened_file(kept.artifact.path, incident) as copy:
        is_linked = identity(copy) == identity(fd)
        if os.fstat(fd).st_nlink > 1 + is_linked:
            return "a core stays that has other names"
        digest = kept.artifact.digest or ""
        # Of a small copy it is that of what was written: whether the disk returns it shows only now.
        same = all(digest_of(file, digest.partition(":")[0]) == digest for file in ((fd,) if is_linked else (copy, fd)))
    return "" if same else DIFFERS


def _is_whole(artifact: KeptArtifact, core: CoreRef) -> bool:
    """Return whether an artifact is all of *core*, as it was noticed."""
    return (
        artifact.digest is not None
        and not (artifact.truncated or artifact.source_changed)
        and (artifact.size_bytes, artifact.source_mtime_ns) == (core.size_bytes, core.mtime_ns)
    )


def _is(core: CoreRef, info: os.stat_result) -> bool:
    now = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    return stat.S_ISREG(info.st_mode) and now == (core.device, core.inode, core.size_bytes, core.mtime_ns)


def _may_remove(found: FoundDirectory, file: os.stat_result) -> bool:
    """
    Return whether a core may be removed for its owner.

    Where only root decides which directory this is and what is in it, the configuration's word is enough.
    """
    status = os.fstat(found.fd)
    is_roots = found.trusted and status.st_uid in {0, os.geteuid()} and not status.st_mode & stat.S_IWOTH
    return is_roots or may_remove(Host(), found, file)
