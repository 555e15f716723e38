"""``collector debug``: the debugger with the core of an incident and the program that it is of."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import click

from collector.archive.read import ArchiveReader
from collector.cli.completion import complete_ids
from collector.cli.options import archive_option, archive_path, config_option
from collector.cli.text import printable
from collector.model.errors import CollectorError
from collector.report.archived_core import ArchivedCore, archived_core
from collector.report.debugger import command_line, program_of

DEBUGGER = "gdb"


class NoDebuggerError(CollectorError):
    """There is no gdb."""

    exit_code = 69  # EX_UNAVAILABLE: "a support program or file does not exist"


@click.command("debug")
@click.argument("incident", metavar="ID", shell_complete=complete_ids)
@click.option("--print", "only_print", is_flag=True, help="Print the command instead of running it.")
@click.option("--exe", metavar="PATH", help="The program, if it is not where it was when it crashed.")
@click.option("--debuginfod", is_flag=True, help="Let gdb download debug information from $DEBUGINFOD_URLS.")
@archive_option
@config_option
def debug_command(
    *,
    incident: str,
    only_print: bool,
    exe: str | None,
    debuginfod: bool,
    archive: str | None,
    config: str | None,
) -> int:
    """
    Open the core of an incident in gdb, with its program. ID as in `collector show`.

    The program must be the build that crashed: its build-id is compared with the core's. A compressed core is unpacked
    to a file without a name in $TMPDIR or /var/tmp, which is gone when gdb ends. The exit status is gdb's.
    """
    with ArchiveReader(archive_path(config, archive)) as opened:
        known = opened.resolve(incident)
        with archived_core(opened, known, opened.manifest(known)) as core, core.plain() as fd:
            program = program_of(fd, exe)
            for note in filter(None, (program.doubt, core.missing, _danger(core))):
                click.echo(f"collector: note: {printable(note)}", err=True)
            command = command_line(core, program.path, f"/var/tmp/{known}.core")  # noqa: S108 - in a text
            if only_print:
                click.echo(printable(command))
                return 0
            gdb = shutil.which(DEBUGGER)
            if gdb is None:
                hint = f"`apt install gdb`, then this again, or: {command}"
                raise NoDebuggerError("gdb is not installed", hint=hint)
            _become(gdb, program.path, core, fd, debuginfod=debuginfod)
    return 0


def _danger(core: ArchivedCore) -> str:
    """Say that gdb, as root, reads what somebody else has left."""
    uid = core.summary.uid
    if os.geteuid() != 0 or not uid:
        return ""
    return f"gdb runs as root on what uid {uid} left: where that is not to be trusted, export it to another machine"


def _become(gdb: str, program: str, core: ArchivedCore, fd: int, *, debuginfod: bool) -> None:
    """Turn into gdb: signals, the terminal and the exit status are its own."""
    path = core.path
    if not core.is_plain:
        os.set_inheritable(fd, True)
        path = f"/proc/self/fd/{fd}"
    environ = dict(os.environ)
    if not debuginfod:
        environ.pop("DEBUGINFOD_URLS", None)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
    os.execve(gdb, [gdb, program, path], environ)  # noqa: S606 - an argv list, no shell
