"""
The process that unwinds a core by libdw: without rights, by descriptors only, one line of JSON for each thread.

It parses what an attacker may have made, in C. Its request, a JSON document on standard input, says of how many
threads, and names the descriptors of the core, of the files of its modules and of their separate debug information; it
opens none itself.
"""

from __future__ import annotations

import json
import os
import sys
from ctypes import byref, c_bool, c_uint64
from typing import Any

from collector.report.confinement import confine
from collector.report.libdw import (
    ABORT,
    ELF_C_READ_MMAP,
    NO_FILE,
    OK,
    Callbacks,
    FindDebugInfo,
    FindElf,
    FrameCallback,
    ThreadCallback,
    load,
)
from collector.report.symbols import Row, Symbolizer

MAX_THREADS = 10_000
MAX_FRAMES = 256
MAX_OUTPUT_BYTES = 8 << 20
NO_LIBRARY = 3
"""Exit status if libdw is not installed."""

MAX_REQUEST_BYTES = 4 << 20


class Session:
    """A core, attached to libdw, with its modules."""

    def __init__(self, library: Any, request: dict[str, Any]) -> None:
        self._library = library
        self._modules = request["modules"]
        self._most_threads = request["threads"]
        self._callers = request["callers"]
        # Kept: ctypes does not, while libdw has them.
        self._callbacks = Callbacks(FindElf(self._find_elf), FindDebugInfo(self._find_debuginfo), None, None)
        self._dwfl = library.dwfl_begin(byref(self._callbacks))
        library.dwfl_report_begin(self._dwfl)
        for number, module in enumerate(self._modules):
            library.dwfl_report_module(self._dwfl, str(number).encode(), module["start"], module["end"])
        library.dwfl_report_end(self._dwfl, None, None)
        core = library.elf_begin(request["core"], ELF_C_READ_MMAP, None)
        self.attached = bool(core) and library.dwfl_core_file_attach(self._dwfl, core) >= 0
        self._symbolizer = Symbolizer(library, self._dwfl)
        self._written = 0

    @property
    def problem(self) -> str:
        """What libdw says about the last error."""
        return str((self._library.dwfl_errmsg(-1) or b"").decode("utf-8", "replace"))

    def write_threads(self) -> None:
        """Write each thread with its frames, the crashed one first, as the kernel does."""
        count = 0

        def each(thread: Any, _: Any) -> int:
            nonlocal count
            if count == self._most_threads:
                if count == MAX_THREADS:
                    _write({"problem": f"only the first {MAX_THREADS} threads are shown"})
                return ABORT
            count += 1
            return self._write_thread(thread)

        if self._library.dwfl_getthreads(self._dwfl, ThreadCallback(each), None) < 0:
            _write({"problem": f"not all threads can be read: {self.problem}"})

    def _write_thread(self, thread: Any) -> int:
        rows: list[Row] = []

        def each(frame: Any, _: Any) -> int:
            pc, is_activation = c_uint64(), c_bool()
            if not self._library.dwfl_frame_pc(frame, byref(pc), byref(is_activation)):
                return ABORT
            rows.extend(self._symbolizer.rows(pc.value, is_call=not is_activation.value))
            return ABORT if len(rows) >= MAX_FRAMES else OK

        result = self._library.dwfl_thread_getframes(thread, FrameCallback(each), None)
        tid = self._library.dwfl_thread_tid(thread)
        rows[1:1] = self._left_out(rows, self._callers.get(str(tid)))
        ended = self.problem if result < 0 else ""
        if len(rows) >= MAX_FRAMES:
            ended = f"only the innermost {MAX_FRAMES} frames are shown"
        line = {"tid": tid, "ended": ended, "frames": rows[:MAX_FRAMES]}
        self._written += _write(line, most=MAX_OUTPUT_BYTES - self._written)
        return OK if self._written < MAX_OUTPUT_BYTES else ABORT

    def _left_out(self, rows: list[Row], caller: int | None) -> list[Row]:
        """
        Return the frames of who called what is in no module, which is not unwound by tables.

        libdw then goes on by the frame pointer, which is still the caller's own: to the caller's caller.
        """
        if caller is None or not rows or rows[0][0] >= 0:
            return []
        found = self._symbolizer.rows(caller, is_call=True)
        return [] if rows[1:2] and rows[1][:2] == found[0][:2] else found

    def _find_elf(self, _m: Any, _u: Any, name: bytes, _base: int, _file: Any, _elf: Any) -> int:
        return self._file(name, "file")

    def _find_debuginfo(
        self, _m: Any, _u: Any, name: bytes, _base: int, _f: Any, _link: Any, _crc: int, _path: Any
    ) -> int:
        return self._file(name, "debug")

    def _file(self, name: bytes, kind: str) -> int:
        fd = self._modules[int(name)][kind]
        return NO_FILE if fd == NO_FILE else os.dup(fd)


def _write(document: dict[str, Any], *, most: int = MAX_OUTPUT_BYTES) -> int:
    """Write one line; beyond *most* bytes only that there is more. Return how long it is."""
    line = json.dumps(document, separators=(",", ":")) + "\n"
    if len(line) > most:
        _write({"problem": f"only the first {MAX_OUTPUT_BYTES >> 20} MiB of the backtraces are shown"})
        return len(line)
    sys.stdout.write(line)
    sys.stdout.flush()
    return len(line)


def main() -> None:
    """Arguments: the library, and the bytes of private memory that this process may have."""
    try:
        library = load(sys.argv[1])
    except OSError:
        sys.exit(NO_LIBRARY)
    confine(int(sys.argv[2]))
    request = json.loads(sys.stdin.buffer.read(MAX_REQUEST_BYTES))
    session = Session(library, request)
    if session.attached:
        session.write_threads()
    else:
        _write({"problem": f"libdw cannot read the core: {session.problem or 'it is not one that it knows'}"})
    os._exit(0)  # nothing of it is worth taking apart
