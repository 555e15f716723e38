"""
What ``core_pattern`` was before the collector set it, kept beside the runtime directory: it outlives the daemon.

Whoever restores it may be another process: the successor of a daemon that was killed, or ``collector core-pattern``.
"""

from __future__ import annotations

import contextlib
import os
from typing import TypeVar

import msgspec

from collector.host.clock import boot_id
from collector.host.core_pattern_owner import (
    CORE_PATTERN,
    CORE_PIPE_LIMIT,
    leads_into,
    pattern_in_force,
    pipe_limit,
)
from collector.host.files import Host, OpenFd, open_regular
from collector.model.decode import MalformedError, decode
from collector.model.errors import StepError

T = TypeVar("T")
KERNEL_DEFAULT = b"core"
RECORD_BYTES = 4096


class SavedCorePattern(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is put back.

    *pattern* need not be UTF-8. *pipe_limit* is what ``core_pipe_limit`` was before it was set to *pipe_limit_set*;
    ``None`` if it was not.
    """

    boot_id: str
    pattern: bytes
    pipe_limit: int | None = None
    pipe_limit_set: int | None = None


def saved_path(runtime_directory: str) -> str:
    return f"{runtime_directory.rstrip('/')}.core_pattern"


def request_path(runtime_directory: str) -> str:
    """Return where a daemon leaves what it wants of `collector.host.core_pattern_setting`."""
    return os.path.join(runtime_directory, "core_pattern.wanted")


def saved_core_pattern(host: Host, runtime_directory: str) -> SavedCorePattern | None:
    """Return what a daemon with this runtime directory found; ``None`` if it set nothing since the machine started."""
    saved = read_trusted(saved_path(runtime_directory), SavedCorePattern)
    return saved if saved is not None and saved.boot_id == boot_id(host) else None


def save(runtime_directory: str, saved: SavedCorePattern) -> None:
    """Keep *saved*; it need not survive a reboot, so nothing is synced."""
    write_private(saved_path(runtime_directory), msgspec.json.encode(saved))


def read_trusted(path: str, kind: type[T]) -> T | None:
    """Return what a file holds that only root, or this process's user, can have written; ``None`` if there is none."""
    try:
        with OpenFd(open_regular(path)) as fd:
            info = os.fstat(fd)
            if info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
                return None
            return decode(os.read(fd, RECORD_BYTES), kind)
    except (OSError, StepError, MalformedError):
        return None


def write_private(path: str, data: bytes) -> None:
    """Write a small file for this process's user alone, whole or not at all."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of a process that was killed while it wrote
    with OpenFd(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)) as fd:
        os.write(fd, data)
    os.rename(new, path)


def put_back(host: Host, runtime_directory: str) -> bool:
    """Restore what was there before the collector, as `undo` does, and forget what was asked for."""
    changed = undo(host, runtime_directory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(request_path(runtime_directory))
    return changed


def undo(host: Host, runtime_directory: str) -> bool:
    """
    Restore what was there before the collector; what somebody else has set meanwhile stays.

    Returns:
        Whether ``core_pattern`` was changed.

    Raises:
        OSError: If it may not be written.
    """
    saved = saved_core_pattern(host, runtime_directory)
    is_ours = leads_into(pattern_in_force(host), runtime_directory)
    if is_ours:
        write_sysctl(host, CORE_PATTERN, saved.pattern if saved is not None else KERNEL_DEFAULT)
    if saved is not None and saved.pipe_limit is not None and pipe_limit(host) == saved.pipe_limit_set:
        write_sysctl(host, CORE_PIPE_LIMIT, b"%d" % saved.pipe_limit)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(saved_path(runtime_directory))
    return is_ours


def check_writable(host: Host, path: str) -> None:
    """Raise `OSError` with its name if one of ``/proc/sys`` may not be written here."""
    try:
        os.close(host.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc


def write_sysctl(host: Host, path: str, value: bytes) -> None:
    """Write one of ``/proc/sys``; raise `OSError` with its name if that is not allowed."""
    try:
        with OpenFd(host.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)) as fd:
            os.write(fd, value + b"\n")  # without a line break, an empty pattern would be no write at all
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
