"""
Setting ``core_pattern``, and ``core_pipe_limit`` for a pipe, and keeping what was there before.

The kernel takes a socket's pattern from a process in the first mount namespace only (EINVAL elsewhere), and a sandbox
has another one. So the daemon leaves a request in its runtime directory, for ``collector-core-pattern.service``.

Source: fs/coredump.c, ``check_coredump_socket()`` (Linux 6.17).
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from collector.host.clock import boot_id
from collector.host.core_pattern_owner import (
    CORE_PATTERN,
    CORE_PIPE_LIMIT,
    counterpart,
    is_taken,
    leads_into,
    owner_of,
    pattern_in_force,
    pipe_limit,
    unusable,
)
from collector.host.files import Host
from collector.host.saved_core_pattern import (
    KERNEL_DEFAULT,
    SavedCorePattern,
    check_writable,
    read_trusted,
    request_path,
    save,
    saved_core_pattern,
    undo,
    write_private,
    write_sysctl,
)


class CorePatternRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a daemon wants.

    Args:
        pattern: A socket, or a program with its arguments; one of them is in the runtime directory. Empty: what was
            there before the collector.
        pipe_limit: What ``core_pipe_limit`` must be; ``None``: any.
        takeover: Also replace a program or a socket of somebody else's.
    """

    pattern: str
    pipe_limit: int | None = None
    takeover: bool = False


def ask(runtime_directory: str, request: CorePatternRequest) -> None:
    """Leave *request* for who may fulfil it."""
    write_private(request_path(runtime_directory), msgspec.json.encode(request))


def asked(runtime_directory: str) -> CorePatternRequest | None:
    """Return the request that was left last, fulfilled or not."""
    return read_trusted(request_path(runtime_directory), CorePatternRequest)


def fulfil(host: Host, runtime_directory: str) -> str | None:
    """Do what was asked for last, if anything was, also meanwhile; return and raise as `set_core_pattern` does."""
    done, reason = None, None
    while (request := asked(runtime_directory)) is not None and request != done:
        done, reason = request, None
        if request.pattern:
            reason = set_core_pattern(host, runtime_directory, request)
        else:
            undo(host, runtime_directory)
    return reason


def set_core_pattern(host: Host, runtime_directory: str, wanted: CorePatternRequest) -> str | None:
    """
    Set what is not in force yet, and read it back; return why it is not in force, ``None`` if it is.

    Files are replaced, what leads to this daemon, and what a collector that is gone has left.

    Raises:
        OSError: If it may not be written.
    """
    if (reason := unusable(wanted.pattern)) is not None:
        return reason
    if not leads_into(wanted.pattern, runtime_directory):
        return f"core_pattern would not lead into {runtime_directory}: {wanted.pattern}"
    now, limit = pattern_in_force(host), pipe_limit(host)
    limit_is_set = wanted.pipe_limit in (None, limit)
    if now == wanted.pattern and limit_is_set:
        return None
    if not (wanted.takeover or _may_replace(now, wanted.pattern, runtime_directory)):
        return f"core_pattern belongs to {owner_of(now)}; `register: takeover` would replace it"
    check_writable(host, CORE_PATTERN)  # before the record: who was asked may be writing it
    _keep(host, runtime_directory, now, wanted, None if limit_is_set else limit)
    try:
        if not limit_is_set:
            write_sysctl(host, CORE_PIPE_LIMIT, b"%d" % (wanted.pipe_limit or 0))
        write_sysctl(host, CORE_PATTERN, os.fsencode(wanted.pattern))
    except OSError:
        with contextlib.suppress(OSError):
            undo(host, runtime_directory)
        raise
    if (found := pattern_in_force(host)) == wanted.pattern:
        return None
    write_sysctl(host, CORE_PATTERN, os.fsencode(now))
    undo(host, runtime_directory)
    return f"the kernel does not keep core_pattern as it was set: {found!r} instead of {wanted.pattern!r}"


def _may_replace(now: str, wanted: str, runtime_directory: str) -> bool:
    if not is_taken(now) or leads_into(now, runtime_directory):
        return True
    left = counterpart(now, wanted)
    return left is not None and not os.path.lexists(left)


def _keep(host: Host, runtime_directory: str, now: str, wanted: CorePatternRequest, limit: int | None) -> None:
    """Keep what is replaced, and *limit* if that is; in place of a collector's own pattern, what that replaced."""
    before = saved_core_pattern(host, runtime_directory)
    left = counterpart(now, wanted.pattern)
    if leads_into(now, runtime_directory):
        pattern = KERNEL_DEFAULT if before is None else before.pattern
    elif left is not None:
        known = saved_core_pattern(host, os.path.dirname(left))
        pattern = KERNEL_DEFAULT if known is None else known.pattern
    else:
        pattern = os.fsencode(now)
    saved = before or SavedCorePattern(boot_id=boot_id(host), pattern=pattern)
    saved = msgspec.structs.replace(saved, pattern=pattern)
    if limit is not None:
        first = saved.pipe_limit if limit == saved.pipe_limit_set else limit
        saved = msgspec.structs.replace(saved, pipe_limit=first, pipe_limit_set=wanted.pipe_limit)
    save(runtime_directory, saved)
