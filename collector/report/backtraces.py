"""The backtraces of an archived core."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress

from collector.collectors.core.module import VDSO
from collector.host.elfcore import CoreError
from collector.model.errors import ArchiveError
from collector.model.text import printable
from collector.report.archived_core import ArchivedCore, ArchivedThread, image_of
from collector.report.archived_frames import archived_frame, continued
from collector.report.core_modules import MAX_MODULES, CoreModule, core_modules
from collector.report.libdw import LIBRARY, NO_FILE
from collector.report.memory_file import memory_file
from collector.report.traces import ARCHIVED, LIBDW, REGISTERS, Backtraces, ThreadTrace, TraceFrame
from collector.report.unwinder import MAX_THREADS
from collector.report.unwinding import TIMEOUT_S, UnwoundFrame, UnwoundThread, unwind

NO_LIBDW = "libdw is not installed (`apt install libdw1`)"
PROGRAM_COUNTERS = ("rip", "pc", "eip")
SHOWN_NAMES = 8
NOT_HERE = "the build that crashed is not on this machine"


def backtraces(
    core: ArchivedCore, *, library: str = LIBRARY, timeout_s: float = TIMEOUT_S, most_threads: int = MAX_THREADS
) -> Backtraces:
    """
    Return the backtraces of a core, by libdw where it is installed and as far as it comes, else as they were archived.

    Never raises for what is wrong with the core: that is the *problem* of what is returned.

    Args:
        core: The core.
        library: The name of libdw.
        timeout_s: After this long, what was found is returned; the other threads are as they were archived.
        most_threads: Of so many threads, the crashed one first.
    """
    try:
        with core.plain() as fd:
            return _unwound(core, fd, library, timeout_s, most_threads)
    except (ArchiveError, CoreError, OSError) as exc:
        return _archived(core, (), str(exc))


def _unwound(core: ArchivedCore, fd: int, library: str, timeout_s: float, most_threads: int) -> Backtraces:
    image = image_of(fd)
    modules = core_modules(image)
    with ExitStack() as stack:
        vdso = NO_FILE
        if modules and modules[-1].path == VDSO:
            vdso = memory_file(image.memory.read(modules[-1].start, modules[-1].end - modules[-1].start))
            stack.callback(os.close, vdso)
        stack.callback(os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_DONTNEED)  # 660 MiB of a core with 10,000 threads
        threads, problem, not_here = unwind(
            fd,
            modules,
            vdso,
            callers=_callers(core, modules),
            library=library,
            timeout_s=timeout_s,
            most_threads=most_threads,
        )
    if threads is None:
        return _archived(core, modules, NO_LIBDW)
    if not threads:
        return _archived(core, modules, problem or "libdw finds no threads in the core")
    others = _others(core, modules, threads) if problem and most_threads > len(threads) else ()
    if others:
        problem = f"{problem}: of the other {len(others)} threads, the {ARCHIVED}"
    left_out = f"only the first {MAX_MODULES} modules are known by name" if len(modules) >= MAX_MODULES else ""
    absent = _absent(threads, modules, not_here)
    traces = [_thread(thread, modules, not_here) for thread in threads]
    if any(trace.ended for trace in traces):
        archived = {row.tid: row for row in core.rows()}
        traces = [_continued(trace, archived.get(trace.tid)) for trace in traces]
    return Backtraces(
        by=LIBDW,
        threads=(*traces, *others),
        problem=printable("; ".join(filter(None, (problem, core.missing, left_out, absent)))),
    )


def _callers(core: ArchivedCore, modules: Sequence[CoreModule]) -> dict[int, int]:
    """Return where threads that jumped to where no code is came from, as it was read from their stacks."""
    starts = {module.name: module.start for module in modules}
    found = {}
    for row in core.rows():
        at, _, _ = row.frames[0].rpartition("+") if row.frames else ("known", "", "")
        caller, _, offset = row.frames[1].rpartition("+") if len(row.frames) > 1 else ("", "", "")
        if not at and caller in starts:
            with suppress(ValueError):
                found[row.tid] = starts[caller] + int(offset, 16)
    return found


def _others(
    core: ArchivedCore, modules: Sequence[CoreModule], unwound: Sequence[UnwoundThread]
) -> tuple[ThreadTrace, ...]:
    """Return the threads that were not unwound, as they were archived."""
    known = {thread.tid for thread in unwound}
    return tuple(_archived_thread(row, modules) for row in core.rows() if row.tid not in known)


def _absent(threads: Sequence[UnwoundThread], modules: Sequence[CoreModule], not_here: Collection[int]) -> str:
    """Say which of the modules in these backtraces have no file here, without which frames have no names."""
    used = {frame.module for thread in threads for frame in thread.frames} & set(not_here)
    names = [modules[number].name for number in sorted(used)[:SHOWN_NAMES]]
    return f"{NOT_HERE}: {', '.join(names)}" if names else ""


def _thread(thread: UnwoundThread, modules: Sequence[CoreModule], not_here: Collection[int]) -> ThreadTrace:
    frames = tuple(_frame(frame, modules) for frame in thread.frames)
    # libdw itself says "Callback returned failure" then.
    ended = NOT_HERE if thread.ended and thread.frames and thread.frames[-1].module in not_here else thread.ended
    return ThreadTrace(tid=thread.tid or 0, frames=frames, ended=printable(ended))


def _continued(trace: ThreadTrace, row: ArchivedThread | None) -> ThreadTrace:
    return trace if row is None else continued(trace, tuple(map(archived_frame, row.frames)), row.frames_end)


def _frame(frame: UnwoundFrame, modules: Sequence[CoreModule]) -> TraceFrame:
    known = 0 <= frame.module < len(modules)
    line = f":{frame.line}" if frame.line else ""
    return TraceFrame(
        module=modules[frame.module].name if known else "",
        offset=f"{frame.offset:#x}",
        function=printable(frame.function),
        source=printable(f"{frame.source}{line}") if frame.source else "",
        inlined=frame.inlined,
    )


def _archived(core: ArchivedCore, modules: Sequence[CoreModule], problem: str) -> Backtraces:
    """Return what was archived with the crash, and say why that is all."""
    rows = core.rows()
    by = ARCHIVED if any(row.frames for row in rows) else REGISTERS
    threads = tuple(_archived_thread(row, modules) for row in rows)
    return Backtraces(by=by, threads=threads, problem=printable(f"{problem}: {by}" if threads else problem))


def _archived_thread(row: ArchivedThread, modules: Sequence[CoreModule]) -> ThreadTrace:
    if row.frames:
        frames = tuple(map(archived_frame, row.frames))
        return ThreadTrace(tid=row.tid, frames=frames, ended=printable(row.frames_end))
    text = next((row.registers[name] for name in PROGRAM_COUNTERS if name in row.registers), "")
    try:
        pc = int(text, 16)
    except ValueError:
        return ThreadTrace(tid=row.tid, ended="its registers are not known")
    module = next((one for one in modules if one.start <= pc < one.end), None)
    frame = TraceFrame(module=module.name if module else "", offset=f"{pc - module.start if module else pc:#x}")
    return ThreadTrace(tid=row.tid, frames=(frame,))
