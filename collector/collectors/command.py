"""The output of a command, for what no file tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from collector.collectors.base import Context, about_nobody, names_nobody
from collector.host.command import Command
from collector.host.files import Host, OpenFd
from collector.host.process_stat import read_stat
from collector.model.artifact import Artifact, Footprint, NotApplicable
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.placeholders import check_whole, filled_whole, whole_placeholders
from collector.model.pressure import StepClass
from collector.model.text import escape, escape_name, json
from collector.model.units import Bytes

# The command is killed this long before its worker would be (in a short step, half-way), so that the result can still
# be written and no orphan is left.
MARGIN_S = 1.5
PLACEHOLDERS = ("pid", "comm", "exe", "unit", "signal", "incident")
LONGEST_VALUE = 4096
"""Bytes: the longest path. Source: limits.h, ``PATH_MAX``."""


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``result.json``; *argv* is redacted.

    *exit_status* is negative for a signal, ``null`` if the command could not be killed. *killed* says what was killed,
    and why: the command, or processes that it had left behind.
    """

    argv: tuple[str, ...]
    exit_status: int | None
    duration_s: float
    killed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """
    Run a command and keep what it prints. The only collector that creates a process.

    Args:
        argv: Absolute path of the program, then its arguments; there is no shell. An argument ``{pid}``, ``{comm}``,
            ``{exe}``, ``{unit}``, ``{signal}`` or ``{incident}`` becomes that of the crash.
        max_output: Maximum bytes of output; a command that prints more is killed.
    """

    name: ClassVar[str] = "command"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.HEAVY, peak_bytes=64 << 20, timeout_s=10.0)
    argv: tuple[str, ...]
    max_output: Bytes = Bytes(4 << 20)

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0].startswith("/"):
            raise ValueError("argv begins with the absolute path of a program")
        check_whole(self.argv, PLACEHOLDERS)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield ``output.txt`` (standard output and error, interleaved), then ``result.json``."""
        started_s = time.monotonic()
        margin_s = min(MARGIN_S, max(0.0, ctx.remaining_s()) / 2)
        until_s = ctx.deadline_s - margin_s
        argv = filled_whole(self.argv, _values(ctx, set(whole_placeholders(self.argv))))
        try:
            command = Command(argv)
        except OSError as exc:
            raise StepError(f"{argv[0]}: {exc.strerror}", hint="is it installed, and executable?") from exc
        printed = False
        try:
            output = command.output(limit=self.max_output, until_s=until_s)
            yield Artifact(path=PurePosixPath("output.txt"), body=output)
            printed = not command.killed
        finally:
            command.close(until_s if printed else started_s, reap_s=margin_s / 2)
        result = CommandResult(
            argv=tuple(escape(argument) for argument in ctx.redaction.arguments(map(os.fsencode, argv))),
            exit_status=command.exit_status,
            duration_s=round(time.monotonic() - started_s, 3),
            killed=command.killed,
        )
        yield Artifact(path=PurePosixPath("result.json"), body=json(result), media="json")


def _values(ctx: Context, names: Set[str]) -> dict[str, str]:
    """
    Return the values of *names*.

    Raises:
        NotApplicable: If the crash has none, or what it has is only a claim.
        StepError: If the crashed process has chosen one that a command could misread.
    """
    values: dict[str, str] = {}
    for name in PLACEHOLDERS:
        if name in names:
            values[name] = ctx.incident if name == "incident" else _value(ctx, name)
    return values


def _value(ctx: Context, name: str) -> str:
    marker = ctx.marker
    if names_nobody(marker):
        raise NotApplicable(about_nobody(marker))
    if marker.doubtful or not marker.attributed:
        raise NotApplicable(f"{{{name}}} is not certain: only a claim says whose crash it is")
    if name == "pid":
        return _pid(ctx.host, marker)
    value = getattr(marker, name)
    if value is None or value == "":
        raise NotApplicable(f"{{{name}}} of the crash is not known")
    return _harmless(name, str(value))


def _pid(host: Host, marker: Marker) -> str:
    """Return the process's number, unless somebody else has it by now: the command would examine that one."""
    if marker.process is None:
        raise NotApplicable("{pid} of the crash is not known")
    pid, started = marker.process.pid, marker.process.start_time_ticks
    try:
        with OpenFd(host.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as dir_fd:
            now = read_stat(dir_fd).start_ticks
    except (OSError, ValueError):
        return str(pid)  # it has ended, and nobody has its number: what is told of it still goes by that
    if started != now:
        raise NotApplicable(f"PID {pid} may be another process by now: it started at tick {now}, not {started}")
    return str(pid)


def _harmless(name: str, value: str) -> str:
    """Return a text of the crashed process's choice if a command takes it for one argument, and not for an option."""
    if value.startswith("-"):
        why = "begins with - and could be taken for an option"
    elif any(character < " " or character == "\x7f" for character in value):
        why = "has control characters"
    elif len(os.fsencode(value)) > LONGEST_VALUE:
        why = f"is longer than {LONGEST_VALUE} bytes"
    else:
        return value
    shown = escape_name(value[:64])
    raise StepError(f"the command was not run: {{{name}}} {why}: {shown}", hint="take it from the incident's manifest")
