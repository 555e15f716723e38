"""What every collector is: a frozen dataclass whose fields are its YAML keys."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from collector.host.files import Host
from collector.host.held_process import HeldProcess
from collector.model.artifact import Artifact, Footprint
from collector.model.marker import Marker, MarkerKind
from collector.model.redaction import Redaction
from collector.model.text import escape_name

EARLIER_BYTES = 8 << 20


class Earlier(Protocol):
    """What a run that was cut off has archived of a step, by paths relative to the step's directory."""

    def has(self, path: str) -> bool:
        """Return whether that artifact was written to its end."""
        ...

    def read(self, path: str) -> bytes | None:
        """Return such an artifact of at most `EARLIER_BYTES`; ``None`` if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """
    Everything that a collector may use.

    Args:
        host: The machine's files; tests supply one with another root.
        marker: Why the incident was opened.
        deadline_s: Absolute, on the monotonic clock; after it the worker is killed.
        redaction: Hides secrets in environments and command lines.
        held: The crashed process, if the kernel holds it; the caller lets it go.
        incident: The incident's id.
        in_memory: What is yielded is kept in the 3 MiB for light evidence, of which others need a part.
        earlier: What there is already, if this continues a run that was cut off. It need not be left out of what is
            yielded: the caller sees to that, and takes nothing twice.
    """

    host: Host
    marker: Marker
    deadline_s: float
    redaction: Redaction = field(default_factory=Redaction)
    held: HeldProcess | None = None
    incident: str = ""
    in_memory: bool = False
    earlier: Earlier | None = None

    def remaining_s(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return self.deadline_s - time.monotonic()


@runtime_checkable
class Collector(Protocol):
    """One kind of evidence."""

    name: ClassVar[str]
    footprint: ClassVar[Footprint]

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield artifacts, the most short-lived evidence first.

        Raises:
            StepError: If there is no evidence.
            Truncated: At the end, if something that was asked for by name is not there.
            NotApplicable: At the end, if the marker has no such evidence by nature, such as the core of a SIGKILL.
        """
        ...


def names_nobody(marker: Marker) -> bool:
    """Return whether a marker is about the machine rather than about a process: a run by hand without a PID."""
    about = (marker.process, marker.core, marker.comm, marker.exe, marker.signal, marker.unit)
    return not marker.also and all(fact is None for fact in about)


def about_nobody(marker: Marker) -> str:
    """Return why a step that examines a process has nothing: what to do about it, if somebody asked for the run."""
    if marker.kind is MarkerKind.MANUAL:
        return "nobody was named: --pid PID names a process"
    return "the marker is about no process"


def names_of(missing: Sequence[str]) -> str:
    """Return the first three of *missing*, for a reason."""
    return ", ".join(map(escape_name, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
