"""
What ``core_pattern`` makes of a crash: a file, a program's pipe, or a socket, and whose that is.

Source: core(5), "Piping core dumps to a program"; fs/coredump.c, ``coredump_parse()`` (Linux 6.17).
"""

from __future__ import annotations

import os
import re

from collector.host.files import Host

CORE_PATTERN = "/proc/sys/kernel/core_pattern"
CORE_PIPE_LIMIT = "/proc/sys/kernel/core_pipe_limit"
PATTERN_BYTES = 127
"""``CORENAME_MAX_SIZE``, less the byte at its end: the kernel cuts off the rest, silently."""

SOCKET_PATH_BYTES = 107
OWNERS = {"systemd-coredump": "systemd-coredump", "apport": "Apport", "abrt": "ABRT", "kdump": "kdump"}
"""Who takes cores by a pipe, by what the name of the program, or of its script, contains."""


def has_coredump_socket(release: str) -> bool:
    """Return whether a kernel (``uname -r``) can connect to a socket and be asked for a dump: Linux 6.17."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= (6, 17)


def pattern_in_force(host: Host) -> str:
    """Return ``core_pattern``; bytes that are not UTF-8 are kept (``surrogateescape``)."""
    return os.fsdecode(host.read(CORE_PATTERN, limit=4096)).rstrip("\n")


def pipe_limit(host: Host) -> int:
    """Return ``core_pipe_limit``; with 0, the kernel does not wait for a program that takes a core."""
    return int(host.read(CORE_PIPE_LIMIT, limit=16))


def is_taken(pattern: str) -> bool:
    """Return whether a program or a socket takes the cores: the kernel writes no file."""
    return pattern.startswith(("|", "@"))


def handler_of(pattern: str) -> str | None:
    """Return the program or the socket that takes the cores; ``None`` if the kernel writes files."""
    return (_parts(pattern) or [""])[0] if is_taken(pattern) else None


def owner_of(pattern: str) -> str:
    """Return who takes the cores by a pipe or a socket, by name if it is known, and where the pattern leads."""
    names = [os.path.basename(part) for part in _parts(pattern)]
    known = next((owner for key, owner in OWNERS.items() if any(key in name for name in names)), None)
    return f"{known} ({pattern})" if known else handler_of(pattern) or pattern


def leads_into(pattern: str, directory: str) -> bool:
    """Return whether the socket, the program or one of its arguments is in *directory*."""
    return is_taken(pattern) and any(os.path.dirname(part) == directory for part in _parts(pattern))


def counterpart(pattern: str, own: str) -> str | None:
    """
    Return the file that *pattern* has in place of the last one of *own*; ``None`` if it is of another kind.

    The patterns of two collectors differ in their runtime directories alone.
    """
    files = [[part for part in _parts(one) if part.startswith("/")] for one in (pattern, own)]
    if not is_taken(pattern) or pattern[0] != own[0] or not all(files):
        return None
    found, ours = files[0][-1], files[1][-1]
    return found if os.path.basename(found) == os.path.basename(ours) else None


def unusable(pattern: str) -> str | None:
    """Return why the kernel would not take *pattern* for a socket or a program as it is written."""
    if len(os.fsencode(pattern)) > PATTERN_BYTES:
        return f"core_pattern would have {len(os.fsencode(pattern))} bytes, and the kernel keeps {PATTERN_BYTES}"
    path = handler_of(pattern) or ""
    if not path.startswith("/") or re.search(r"[%\s]|/\.\.?(/|$)", path):
        return f"core_pattern cannot lead to {path!r}: the kernel needs an absolute path without %, spaces, . and .."
    if pattern.startswith("@") and len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        return f"{path} has {len(os.fsencode(path))} bytes, and a socket's path at most {SOCKET_PATH_BYTES}"
    if pattern.startswith("@") and os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
        return f"a symlink leads to {path}, which the kernel does not follow"
    return None


def _parts(pattern: str) -> list[str]:
    """Return the socket, or the program and its arguments."""
    return pattern[1:].split() if pattern.startswith("|") else [pattern.lstrip("@")]
