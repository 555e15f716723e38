"""What every collector is: a frozen dataclass whose fields are its YAML keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from collector.host.files import Host
from collector.model.artifact import Artifact, Footprint
from collector.model.marker import Marker
from collector.model.redaction import Redaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """
    All that a collector may know and touch.

    Args:
        host: The door to the kernel; tests give one whose root is a directory of their own.
        marker: Why the incident was opened.
        deadline_s: Absolute, on the monotonic clock; past it the worker is killed.
        redaction: Hides what looks secret in environments and command lines.
    """

    host: Host
    marker: Marker
    deadline_s: float
    redaction: Redaction = field(default_factory=Redaction)

    def remaining_s(self) -> float:
        """Return the seconds until the deadline; negative once it has passed."""
        return self.deadline_s - time.monotonic()


@runtime_checkable
class Collector(Protocol):
    """One kind of evidence."""

    name: ClassVar[str]
    footprint: ClassVar[Footprint]

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield artifacts, what vanishes first before the rest; raise `StepError` if there is none."""
        ...
