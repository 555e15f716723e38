"""The kernel log, before and during the crash."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from collector.collectors.base import Context
from collector.host.files import Host
from collector.host.kmsg import PATH, Kmsg, KmsgRecord
from collector.model.artifact import Artifact, Footprint, SourceInfo
from collector.model.errors import StepError
from collector.model.pressure import StepClass
from collector.model.redaction import Redaction
from collector.model.text import joined, jsonl
from collector.model.units import Seconds


class Overwritten(msgspec.Struct, frozen=True, kw_only=True):
    """Takes the place of records that the kernel overwrote before they could be read."""

    overwritten: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmesg:
    """
    Copy the kernel log as JSON lines with all fields, and as text; in the kernel's command line, secrets are hidden.

    Args:
        since: How far back; by default everything that the kernel still has.
    """

    name: ClassVar[str] = "dmesg"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=4 << 20, timeout_s=10.0)
    since: Seconds | None = None

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield ``dmesg.jsonl`` and ``dmesg.txt``; raise `StepError` if the log may not be read."""
        # Records are stamped by a clock that stops during suspend, as CLOCK_MONOTONIC does.
        since_s = time.monotonic() - self.since if self.since is not None else 0.0
        try:
            with closing(Kmsg(ctx.host)) as log:
                newest = log.newest_seq()
        except OSError as exc:
            hint = "run as root, or with CAP_SYSLOG" if exc.errno in {errno.EPERM, errno.EACCES} else None
            raise StepError(f"{PATH}: {exc.strerror}", hint=hint) from exc
        source = SourceInfo(path=PATH)
        rows = jsonl(_shown(_window(ctx.host, since_s, newest), ctx.redaction))
        yield Artifact(path=PurePosixPath("dmesg.jsonl"), body=rows, source=source, media="jsonl")
        lines = joined(map(_line, _shown(_window(ctx.host, since_s, newest), ctx.redaction)))
        yield Artifact(path=PurePosixPath("dmesg.txt"), body=lines, source=source)


def _window(host: Host, since_s: float, newest: int | None) -> Iterator[KmsgRecord | Overwritten]:
    """
    Yield the records since *since_s* up to number *newest*, and a note where records were lost.

    The end is a number because the kernel's clock drifts from CLOCK_MONOTONIC by seconds over weeks of uptime, and the
    newest records matter most.
    """
    with closing(Kmsg(host)) as log:
        lost = 0
        for record in log.records():
            if log.lost > lost:
                yield Overwritten(overwritten=log.lost - lost)
                lost = log.lost
            if newest is None or record.seq > newest:
                return
            if record.time_s >= since_s:
                yield record


def _shown(records: Iterator[KmsgRecord | Overwritten], redaction: Redaction) -> Iterator[KmsgRecord | Overwritten]:
    """Hide secrets in the kernel's command line; in other records, most of what looks like one is a kernel's key."""
    for record in records:
        if isinstance(record, KmsgRecord) and "command line" in record.message.lower():
            yield replace(record, message=redaction.text(record.message.encode()).decode())
        else:
            yield record


def _line(record: KmsgRecord | Overwritten) -> bytes:
    if isinstance(record, Overwritten):
        return f"-- {record.overwritten} records were overwritten before they could be read --\n".encode()
    return f"[{record.time_s:12.6f}] {record.facility:<8}{record.level:<8}{record.message}\n".encode()
