"""Which program a core is of, and the command that opens both in gdb."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from collector.host.unpack import compression_of
from collector.model.errors import CollectorError
from collector.model.text import escape, printable
from collector.report.archived_core import ArchivedCore, image_of
from collector.report.core_modules import CoreModule, core_modules, executable
from collector.report.module_files import ProgramFile, candidates, examine

UNPACKERS = {"zstd": "zstd -dc", "xz": "xz -dc", "lzma": "xz -dc", "gzip": "gzip -dc", "bzip2": "bzip2 -dc",
             "lz4": "lz4 -dc"}  # fmt: skip


class MismatchError(CollectorError):
    """The program that a core is of is not on this machine, or is not the one that was named."""

    exit_code = 73


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The *path* of the program, and why it may not be the right one (*doubt*), if that cannot be told."""

    path: str
    doubt: str = ""


def program_of(core_fd: int, named: str | None) -> Program:
    """
    Return the program that the plain core *core_fd* is of, or the one that was *named*.

    Raises:
        MismatchError: If it is not that of the core, or there is none on this machine that is.
    """
    image = image_of(core_fd)
    module = executable(image, core_modules(image))
    if module is None:
        if named is None:
            raise MismatchError("the core does not say which program it is of", hint="--exe PATH names it")
        return Program(path=named, doubt="the core does not say which program it is of")
    tried = [examine(module, path) for path in ([named] if named else candidates(module))]
    for candidate in tried:
        if not candidate.problem:
            return _accepted(module, candidate)
    raise MismatchError(_refusal(module, tried), hint="--exe PATH names the file of the build that crashed")


def _accepted(module: CoreModule, candidate: ProgramFile) -> Program:
    doubt = "" if candidate.checked else f"the core has no build-id of {module.name}: nobody knows if it is the same"
    return Program(path=os.path.abspath(candidate.path), doubt=doubt)


def _refusal(module: CoreModule, tried: list[ProgramFile]) -> str:
    what = f"the program of the core is not here: {escape(module.path)}, build-id {module.build_id or 'unknown'}"
    return "\n".join([what, *(f"  {printable(one.path)}: {one.problem}" for one in tried)])


def command_line(core: ArchivedCore, program: str, unpacked_path: str) -> str:
    """Return what a shell runs to open the core; a compressed one is unpacked to *unpacked_path* first."""
    source = shlex.quote(core.path)
    gdb = f"gdb {shlex.quote(program)}"
    if core.is_plain:
        return f"{gdb} {source}"
    target = shlex.quote(unpacked_path)
    compression = compression_of(os.pread(core.fd, 16, 0))
    if compression is None:
        return f"apport-unpack {source} {target} && {gdb} {target}/CoreDump"
    return f"{UNPACKERS[compression.name]} {source} > {target} && {gdb} {target}"
