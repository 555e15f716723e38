"""How to open an exported core in gdb, on a machine that never saw the program."""

from __future__ import annotations

import os

from collector.host.unpack import compression_of
from collector.model.errors import CollectorError
from collector.model.text import printable
from collector.report.archived_core import ArchivedCore
from collector.report.debugger import UNPACKERS

APPORT = "apport-unpack"


def gdb_guide(core: ArchivedCore, name: str) -> list[str]:
    """Return lines that say so; *name* is the core's in the export, empty if it is not in it."""
    summary = core.summary
    program = printable(summary.program or summary.started_as or summary.command or "unknown", limit=4096)
    lines = [f"program   {program}", f"build-id  {printable(summary.build_id) or 'unknown: the core does not say'}"]
    if not name:
        return [*lines, f"The core is not in here: {printable(summary.problem) or 'it was left out'}."]
    if core.missing:
        lines.append(f"{core.missing[0].upper()}{core.missing[1:]}.")
    unpack, opened = _unpacking(core, name)
    lines += [
        "",
        "Find the file of exactly that build, with its debug symbols, as EXE:",
        "    readelf -n EXE | grep 'Build ID'      must show the build-id above",
        *([f"    debuginfod-find executable {summary.build_id}      where your builds are on a server"]
          if summary.build_id else []),
        "Then:",
        *([f"    {unpack}"] if unpack else []),
        f"    gdb -c {opened} EXE -ex 'thread apply all bt'",
        "Libraries must be those builds, too: put them below a directory D by their paths, and begin gdb with",
        "    -iex 'set sysroot D'. Without any of them, `info registers` and the frames in core.json still hold.",
    ]  # fmt: skip
    return lines


def _unpacking(core: ArchivedCore, name: str) -> tuple[str, str]:
    """Return the command that unpacks the core, if it is packed, and the name of what gdb opens."""
    if core.is_plain:
        return "", name
    try:
        compression = compression_of(os.pread(core.fd, 16, 0))
    except CollectorError as exc:
        return str(exc), name
    if compression is None:
        return f"{APPORT} {name} unpacked", "unpacked/CoreDump"
    return f"{UNPACKERS[compression.name]} {name} > core.elf", "core.elf"
