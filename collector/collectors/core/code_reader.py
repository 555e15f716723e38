"""
What a core leaves out of programs and libraries, read from their files: unwind tables, code.

A file is used only if it is the one that was mapped: its first page, with the build-id, is that in the core.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self, TypeVar

from collector.collectors.core.block_cache import BlockCache
from collector.collectors.core.image import CoreImage
from collector.collectors.core.module import Module, ModuleTable
from collector.host.core_segments import PF_W
from collector.host.elfcore import MappedFile
from collector.host.files import DIRECTORY_FLAGS, REGULAR_FLAGS, Host, OpenFd, open_beneath
from collector.host.guarded_read import Guard, WedgedError
from collector.host.memory import PAGE_BYTES
from collector.host.procfs import Process
from collector.model.errors import StepError

MAX_FILES = 32
MAX_READ_BYTES = 4 << 20
"""Of all files together; measured: 0.1 to 0.5 MiB."""

READ_TIMEOUT_S = 0.25
"""A file may be on a file server that does not answer."""

T = TypeVar("T")
OpenFile = Callable[[MappedFile], int]


class CodeReader:
    """
    Reads a crashed process's memory, and what of its read-only mappings is missing there from the files.

    Args:
        image: The core.
        modules: Its modules.
        open_file: Opens the file of a mapping; raises `OSError` or `StepError`.
    """

    def __init__(self, image: CoreImage, modules: ModuleTable, open_file: OpenFile) -> None:
        self.read = BlockCache(self._read).read
        self._image = image
        self._modules = modules
        self._open_file = open_file
        self._fds: dict[int, int | None] = {}
        self._left = MAX_READ_BYTES
        self._guard = Guard(READ_TIMEOUT_S)
        self._stack = ExitStack()
        self._stack.callback(self._guard.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _read(self, address: int, size: int) -> bytes:
        found = self._image.memory.read(address, size)
        return found if len(found) == size else found + self._from_file(address + len(found), size - len(found))

    def _from_file(self, address: int, size: int) -> bytes:
        module = self._modules.find(address)
        segment = self._image.segments.find(address)
        if module is None or segment is None or segment.flags & PF_W or not module.build_id:
            return b""
        mapping = next((one for one in module.mappings if one.start <= address < one.end), None)
        fd = self._file_of(module) if mapping is not None else None
        if mapping is None or fd is None or self._left < size:
            return b""
        self._left -= size
        size, offset = min(size, mapping.end - address), address - mapping.start + mapping.offset
        return self._guarded(lambda: os.pread(fd, size, offset)) or b""

    def _file_of(self, module: Module) -> int | None:
        """Return the module's file, open; ``None`` if it is gone, replaced, or cannot be read."""
        if module.start not in self._fds:
            self._fds[module.start] = self._opened(module) if len(self._fds) < MAX_FILES else None
        return self._fds[module.start]

    def _opened(self, module: Module) -> int | None:
        first = self._image.memory.read(module.start, PAGE_BYTES)
        fd = self._guarded(lambda: self._open_file(module.mappings[0]))
        if fd is None:
            return None
        self._stack.callback(os.close, fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # a table is searched: no reading ahead
        return fd if self._guarded(lambda: os.pread(fd, len(first), 0)) == first else None

    def _guarded(self, read: Callable[[], T]) -> T | None:
        """Return what *read* returns; ``None`` if it fails. After one that does not return, no file is read."""
        try:
            return self._guard.call(read) if self._left > 0 else None
        except WedgedError:
            self._left = 0
        except (OSError, StepError):
            pass
        return None


def opener(host: Host) -> OpenFile:
    """Return what opens a mapping's file by its path, through no symlink: the kernel's paths have none."""

    def open_file(file: MappedFile) -> int:
        with OpenFd(os.open(host.path("/"), DIRECTORY_FLAGS)) as root:
            return open_beneath(root, os.fsdecode(file.path.removeprefix(b"/")))

    return open_file


def mapping_opener(process: Process) -> OpenFile:
    """Return what opens the very file that a process has mapped, deleted or not; a device is left alone."""

    def open_file(file: MappedFile) -> int:
        name = f"map_files/{file.addresses}"
        if not stat.S_ISREG(os.stat(name, dir_fd=process.whole_fd).st_mode):
            raise StepError("it is not a regular file")
        return os.open(name, REGULAR_FLAGS & ~os.O_NOFOLLOW, dir_fd=process.whole_fd)

    return open_file
