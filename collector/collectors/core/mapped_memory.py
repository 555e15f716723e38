"""The memory of a held process, with the first pages of its programs and libraries even if they are not in memory."""

from __future__ import annotations

import os

from collector.collectors.core.code_reader import READ_TIMEOUT_S, OpenFile
from collector.host.core_memory import CoreMemory
from collector.host.elfcore import MappedFile
from collector.host.files import OpenFd
from collector.host.guarded_read import Guard, WedgedError
from collector.host.mapped_files import MappedFileTable
from collector.host.memory import PAGE_BYTES, page
from collector.model.errors import StepError


class MappedMemory:
    """
    Reads a process's memory, and the first page of a mapped file from that file where it is not there.

    A machine short of memory has dropped the pages that were used once, when the program was loaded. These say which
    build it is.

    Args:
        memory: Of the process.
        files: Its mapped files.
        open_file: Opens what is mapped.
    """

    def __init__(self, memory: CoreMemory, files: MappedFileTable, open_file: OpenFile) -> None:
        self._memory = memory
        self._files = files
        self._open_file = open_file
        self._is_wedged = False
        self._pages: dict[int, bytes] = {}
        self._guard = Guard(READ_TIMEOUT_S)

    def close(self) -> None:
        self._guard.close()

    def read(self, address: int, size: int) -> bytes:
        if found := self._memory.read(address, size):
            return found
        start = page(address)
        if start not in self._pages:
            self._pages[start] = self._first_page(start)
        return self._pages[start][address - start : address - start + size]

    def _first_page(self, start: int) -> bytes:
        file = self._files.find(start)
        if file is None or file.start != start or file.offset or self._is_wedged:
            return b""
        try:
            return self._guard.call(lambda: self._read_first(file))
        except WedgedError:
            self._is_wedged = True
        except (OSError, StepError):
            pass
        return b""

    def _read_first(self, file: MappedFile) -> bytes:
        with OpenFd(self._open_file(file)) as fd:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            return os.pread(fd, min(PAGE_BYTES, file.end - file.start), 0)
