"""File handles: they lead to a file wherever it was moved within its file system."""

from __future__ import annotations

import ctypes
import os
import struct

from collector.host.syscalls import AT_EMPTY_PATH, call

HEAD = struct.Struct("=Ii")  # bytes of the handle, its type
MAX_HANDLE_BYTES = 128


def handle_of(fd: int) -> str:
    """Return the handle of an open file as text; empty if its file system has none. Source: name_to_handle_at(2)."""
    handle = ctypes.create_string_buffer(HEAD.pack(MAX_HANDLE_BYTES, 0), HEAD.size + MAX_HANDLE_BYTES)
    try:
        call("name_to_handle_at", fd, b"", handle, ctypes.byref(ctypes.c_int()), AT_EMPTY_PATH)
    except OSError:
        return ""
    size, kind = HEAD.unpack_from(handle)
    return f"{kind}:{handle.raw[HEAD.size : HEAD.size + size].hex()}"


def open_handle(mount_fd: int, handle: str, flags: int) -> int:
    """
    Open the file that *handle* leads to.

    Args:
        mount_fd: Any directory on its file system, not opened with ``O_PATH``.
        handle: From `handle_of`.
        flags: As for open(2).

    Raises:
        OSError: ``ESTALE`` if it was deleted; ``EPERM`` without CAP_DAC_READ_SEARCH.

    Source: open_by_handle_at(2).
    """
    kind, _, data = handle.partition(":")
    raw = bytes.fromhex(data)
    return call("open_by_handle_at", mount_fd, HEAD.pack(len(raw), int(kind)) + raw, flags | os.O_CLOEXEC)
