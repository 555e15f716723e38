"""Every process of the machine, as ``ps`` would show them, without ``ps``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context
from collector.host.guarded_read import Guard
from collector.host.proctable import commands, rows, uptime_s
from collector.host.read_errors import Unreads
from collector.model.artifact import Artifact, Footprint, SourceInfo
from collector.model.errors import StepError
from collector.model.pressure import StepClass
from collector.model.text import joined
from collector.model.units import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTable:
    """
    List all processes, one line each, tabs between the fields.

    Args:
        read_timeout: How long one process's command line may take; it is read under that process's
            own locks, and a process can hold these for ever.
    """

    name: ClassVar[str] = "process_table"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=8 << 20, timeout_s=10.0)
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield ``processes.tsv``, which cannot hang, then ``commands.tsv``, which can."""
        source = SourceInfo(path="/proc")
        try:
            now_s = uptime_s(ctx.host)
        except OSError as exc:
            raise StepError(f"/proc/uptime: {exc.strerror}", hint="is /proc mounted?") from exc
        yield Artifact(path=PurePosixPath("processes.tsv"), body=joined(rows(ctx.host, now_s)), source=source)
        unread = Unreads()
        with closing(Guard(self.read_timeout)) as guard:
            lines = commands(ctx.host, ctx.redaction, guard, unread, ctx.remaining_s)
            yield Artifact(path=PurePosixPath("commands.tsv"), body=joined(lines), source=source)
        yield from unread.artifacts()
