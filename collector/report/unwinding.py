"""Starting the process that unwinds, and what is believed of its answer."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import IO, NamedTuple, cast

import msgspec

import collector
from collector.model.decode import MalformedError, decode
from collector.model.signals import signal_name
from collector.report.core_modules import CoreModule
from collector.report.libdw import NO_FILE
from collector.report.memory_file import memory_file
from collector.report.module_files import open_debug_file, open_program
from collector.report.unwinder import MAX_OUTPUT_BYTES, NO_LIBRARY

TIMEOUT_S = 60.0
"""10,000 threads take 8 to 61 s."""

DATA_BYTES = 256 << 20
"""What the process may use itself: 3,000 threads of Python take 60 MiB."""

MAX_FILES_BYTES = 8 << 30
"""libdw maps files so that they count as private memory, though what is not written to takes none."""

PIECE_BYTES = 1 << 16
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(collector.__file__)))
CODE = f"import sys; sys.path.append({ROOT!r}); from collector.report.unwinder import main; main()"


class UnwoundFrame(msgspec.Struct, frozen=True, array_like=True):
    """`symbols.Row`, as it is sent."""

    module: int
    offset: int
    function: str
    source: str
    line: int
    inlined: bool


class UnwoundThread(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the answer: a thread, or what is missing."""

    tid: int | None = None
    ended: str = ""
    frames: tuple[UnwoundFrame, ...] = ()
    problem: str = ""


class Unwound(NamedTuple):
    """
    The answer, as far as it came, and what is missing; *threads* is ``None`` if libdw is not installed.

    *not_here* has the numbers of the modules whose files are not on this machine.
    """

    threads: list[UnwoundThread] | None
    problem: str
    not_here: tuple[int, ...] = ()


def unwind(
    core: int,
    modules: Sequence[CoreModule],
    vdso: int,
    *,
    callers: Mapping[int, int],
    library: str,
    timeout_s: float,
    most_threads: int,
) -> Unwound:
    """
    Have the threads of a core unwound.

    Args:
        core: The plain core, open.
        modules: Of the core.
        vdso: A file with the kernel's own module, which is the last of *modules*; -1 if there is none.
        callers: Where a thread's first frame returns to, by its id, if that frame is in no module.
        library: The name of libdw.
        timeout_s: After this long, what came is the answer.
        most_threads: Of so many threads, the crashed one first.
    """
    with ExitStack() as stack:
        rows = []
        for module in modules:
            program, debug = open_program(module), open_debug_file(module)
            for fd in (program, debug):
                if fd is not None:
                    stack.callback(os.close, fd)
            rows.append({"start": module.start, "end": module.end, "file": _number(program), "debug": _number(debug)})
        if vdso != NO_FILE:
            rows[-1]["file"] = vdso
        fds = [core, *(row[kind] for row in rows for kind in ("file", "debug") if row[kind] != NO_FILE)]
        mapped_bytes = min(MAX_FILES_BYTES, sum(os.fstat(fd).st_size for fd in fds[1:]))
        asked = {"core": core, "threads": most_threads, "modules": rows, "callers": callers}
        request = memory_file(msgspec.json.encode(asked))
        stack.callback(os.close, request)
        process = start(request, fds, library=library, data_bytes=DATA_BYTES + mapped_bytes)
        not_here = tuple(number for number, row in enumerate(rows) if row["file"] == NO_FILE)
        return _answer(process, time.monotonic() + timeout_s)._replace(not_here=not_here)


def start(request: int, fds: Sequence[int], *, library: str, data_bytes: int) -> subprocess.Popen[bytes]:
    """Start the process with these descriptors, its own environment, and nothing of the site's packages."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CODE, library, str(data_bytes)],
        stdin=request,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=tuple(fds),
        env={"LC_ALL": "C.UTF-8"},
        cwd="/",
    )


def _answer(process: subprocess.Popen[bytes], until_s: float) -> Unwound:
    with process:
        try:
            data, why = _read(cast("IO[bytes]", process.stdout).fileno(), until_s)
        except BaseException:
            process.kill()
            raise
        if why:
            process.kill()
    status = process.returncode
    if status == NO_LIBRARY:
        return Unwound(None, "")
    if not why and status:
        end = signal_name(-status) if status < 0 else f"exit status {status}"
        why = f"the process that unwinds ended with {end}: the core may be damaged"
        if -status == signal.SIGKILL:
            why = "the process that unwinds was killed: it took too much time or memory"
    threads, problems = _parsed(data)
    return Unwound(threads, "; ".join([*problems, *([why] if why else [])]))


def _read(fd: int, until_s: float) -> tuple[bytes, str]:
    """Return what came, and why no more of it is waited for."""
    data = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while (left_s := until_s - time.monotonic()) > 0:
        if not poll.poll(left_s * 1000):
            continue
        piece = os.read(fd, PIECE_BYTES)
        data += piece
        if not piece:
            return bytes(data), ""
        if len(data) > 2 * MAX_OUTPUT_BYTES:
            return bytes(data), "the process that unwinds wrote too much"
    return bytes(data), "unwinding took too long"


def _parsed(data: bytes) -> tuple[list[UnwoundThread], list[str]]:
    """Return the threads in the whole lines of an answer, and the problems."""
    threads: list[UnwoundThread] = []
    problems: list[str] = []
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            found = decode(line, UnwoundThread)
        except MalformedError:
            return threads, [*problems, "the process that unwinds gave an answer that cannot be read"]
        if found.tid is None:
            problems.append(found.problem)
        else:
            threads.append(found)
    return threads, problems


def _number(fd: int | None) -> int:
    return NO_FILE if fd is None else fd
