"""The processes that a marker names for certain, held open."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

from collector.host.files import Host
from collector.host.process_stat import DEAD_STATES
from collector.host.procfs import Process, ReplacedError
from collector.model.errors import StepError
from collector.model.marker import Marker

MAX_PROCESSES = 32


@dataclass(slots=True, kw_only=True)
class NamedProcesses:
    """
    What became of the processes of a marker; without a start time, a PID may be anybody's, and is not looked at.

    Args:
        found: Those that live, or are held.
        ended: Why others are not there.
        replaced: Which PIDs belong to other processes by now.
        left_out: How many are beyond `MAX_PROCESSES`.
    """

    found: list[Process] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    left_out: int = 0

    @classmethod
    def of(cls, host: Host, marker: Marker, stack: ExitStack) -> Self:
        """Open the processes of *marker*, at most `MAX_PROCESSES`; *stack* closes them."""
        references = {one.pid: one for one in (marker.process, *marker.also) if one is not None}
        named = cls(left_out=max(0, len(references) - MAX_PROCESSES))
        for one in islice(references.values(), MAX_PROCESSES):
            if one.start_time_ticks is not None:
                named._open(host, one.pid, one.start_time_ticks, stack)
        return named

    def _open(self, host: Host, pid: int, start_ticks: int, stack: ExitStack) -> None:
        try:
            process = stack.enter_context(Process(host, pid, start_ticks))
        except ReplacedError as exc:
            self.replaced.append(str(exc))
        except (OSError, StepError):
            self.ended.append(f"process {pid} had ended")
        else:
            if process.whole_fd == process.dir_fd and process.stat().state in DEAD_STATES:
                self.ended.append(f"process {pid} had ended")
            else:
                self.found.append(process)
