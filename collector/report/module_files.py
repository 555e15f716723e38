"""
The files of a core's modules on this machine: only what provably is the same build.

A core names the files that it was mapped from, and whoever wrote the core may have chosen the names. A file is opened
only if it is a regular one, and used only if its build-id is the module's. Links are followed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import partial

from collector.host.files import READ_FLAGS, OpenFd, kind_of
from collector.model.errors import StepError
from collector.report.core_modules import CoreModule
from collector.report.elf_image import PAGE_BYTES, build_id

DEBUG_DIRECTORY = "/usr/lib/debug/.build-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFile:
    """
    A file that may be a module's.

    Args:
        path: Of the file.
        build_id: What it has for a build-id; empty if it has none.
        problem: Why it is not the module's; empty if it is.
        checked: Whether that could be told at all.
    """

    path: str
    build_id: str = ""
    problem: str = ""
    checked: bool = True


def candidates(module: CoreModule) -> list[str]:
    """Return where the program of a module may be, the likeliest first."""
    paths = [os.fsdecode(module.path)] if module.path.startswith(b"/") else []
    return [*paths, _by_build_id(module.build_id, "")] if module.build_id else paths


def examine(module: CoreModule, path: str) -> ProgramFile:
    """Compare a file with a module, by build-id, else by the first page."""
    try:
        with OpenFd(_open(path)) as fd:
            return _compared(module, path, fd)
    except (OSError, StepError) as exc:
        return ProgramFile(path=path, problem=_why(exc))


def open_program(module: CoreModule) -> int | None:
    """Open the file of a module; ``None`` if it is not here."""
    return next((fd for path in candidates(module) if (fd := _open_matching(module, path)) is not None), None)


def open_debug_file(module: CoreModule) -> int | None:
    """Open the separate debug information of a module; ``None`` if it is not here."""
    return _open_matching(module, _by_build_id(module.build_id, ".debug")) if module.build_id else None


def _open_matching(module: CoreModule, path: str) -> int | None:
    try:
        fd = _open(path)
    except (OSError, StepError):
        return None
    found = _compared(module, path, fd)
    if found.checked and not found.problem:
        return fd
    os.close(fd)
    return None


def _open(path: str) -> int:
    """Open a regular file. Nothing else is opened even for a moment: a watchdog's device would be started by that."""
    with OpenFd(os.open(path, os.O_PATH | os.O_CLOEXEC)) as found:
        mode = os.fstat(found).st_mode
        if not stat.S_ISREG(mode):
            raise StepError(f"it is a {kind_of(mode)}, not a regular file")
        return os.open(f"/proc/self/fd/{found}", READ_FLAGS | os.O_NONBLOCK)


def _compared(module: CoreModule, path: str, fd: int) -> ProgramFile:
    read = partial(_pread, fd)
    known = build_id(read)
    if module.build_id:
        differs = known != module.build_id
        problem = f"its build-id is {known or 'missing'}, the core's {module.build_id}" if differs else ""
        return ProgramFile(path=path, build_id=known, problem=problem)
    if not module.first_page:
        return ProgramFile(path=path, build_id=known, checked=False)
    differs = read(0, PAGE_BYTES)[: len(module.first_page)] != module.first_page
    problem = "its first page differs from the one in the core, which has no build-id" if differs else ""
    return ProgramFile(path=path, build_id=known, problem=problem)


def _pread(fd: int, offset: int, size: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except (OSError, OverflowError):
        return b""


def _by_build_id(known: str, suffix: str) -> str:
    return f"{DEBUG_DIRECTORY}/{known[:2]}/{known[2:]}{suffix}"


def _why(exc: Exception) -> str:
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
