"""The output of a command: the last resort for what no file tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from collector.collectors.base import Context
from collector.host.spawn import Command
from collector.model.artifact import Artifact, Footprint, Truncated
from collector.model.errors import StepError
from collector.model.pressure import StepClass
from collector.model.text import escape, json
from collector.model.units import Bytes

# The command is killed before the worker itself is, which would leave it without a parent, and so
# that there is time to say so. Of a short step it is half.
MARGIN_S = 1.5


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``result.json``: *exit_status* is negative for a signal, ``null`` if it could not be ended.

    *argv* is redacted: what an operator gives a command may be a credential.
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
        argv: Program, by its absolute path, and arguments; there is no shell.
        max_output: It is killed when it prints more than that.
    """

    name: ClassVar[str] = "command"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.HEAVY, peak_bytes=64 << 20, timeout_s=10.0)
    argv: tuple[str, ...]
    max_output: Bytes = Bytes(4 << 20)

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0].startswith("/"):
            raise ValueError("argv begins with the absolute path of a program")

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield ``output.txt`` (standard output and error as they came), then ``result.json``."""
        started_s = time.monotonic()
        margin_s = min(MARGIN_S, max(0.0, ctx.remaining_s()) / 2)
        until_s = ctx.deadline_s - margin_s
        try:
            command = Command(self.argv)
        except OSError as exc:
            raise StepError(f"{self.argv[0]}: {exc.strerror}", hint="is it installed, and executable?") from exc
        killed: list[str] = []
        printed = False
        try:
            output = _noting(command.output(limit=self.max_output, until_s=until_s), killed)
            yield Artifact(path=PurePosixPath("output.txt"), body=output)
            printed = not killed
        finally:
            command.close(until_s if printed else started_s, reap_s=margin_s / 2)
        result = Result(
            argv=tuple(escape(argument) for argument in ctx.redaction.arguments(map(os.fsencode, self.argv))),
            exit_status=command.exit_status,
            duration_s=round(time.monotonic() - started_s, 3),
            killed="".join(killed),
        )
        yield Artifact(path=PurePosixPath("result.json"), body=json(result), media="json")


def _noting(output: Iterator[bytes], killed: list[str]) -> Iterator[bytes]:
    """Pass the output on, and note why it was cut."""
    try:
        yield from output
    except Truncated as cut:
        killed.append(cut.reason)
        raise
