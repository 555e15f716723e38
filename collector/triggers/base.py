"""What every trigger is: a frozen dataclass whose fields are its YAML keys, which opens a `Watch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from collector.host.files import Host
from collector.model.marker import Marker


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerContext:
    """
    All that a trigger may know and touch.

    Args:
        id: The trigger's id in the configuration; goes into each marker.
        host: The door to the kernel.
        ignore: Directories whose files are never markers (the archive, the runtime directory).
        runtime_directory: Mode 0700, owned by the daemon: the only place for sockets.
        remember: Store a small text under a key, durably (a kmsg position, a pstore file seen).
        recall: Read such a text back; ``None`` if there is none.
    """

    id: str
    host: Host
    ignore: tuple[str, ...]
    runtime_directory: str
    remember: Callable[[str, str], None]
    recall: Callable[[str], str | None]


class Watch(Protocol):
    """An opened trigger. Nothing here blocks."""

    @property
    def poll_s(self) -> float | None:
        """Call `poll` this often (to find directories that appeared, PSI that rose); ``None``: only at the start."""
        ...

    @property
    def lost(self) -> int:
        """Markers that the source itself reports as lost, so far."""
        ...

    @property
    def degraded(self) -> str | None:
        """Why it sees less than it was asked to, at this moment; ``None`` if it sees all."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that turns readable when there is something to read; -1: none."""
        ...

    def read(self) -> Iterable[Marker]:
        """Return the markers that are there now, a bounded number; the rest at the next call."""
        ...

    def poll(self) -> Iterable[Marker]:
        """Look for what no descriptor announces: what stood there before the start, new directories."""
        ...

    def close(self) -> None:
        """Release all descriptors."""
        ...


@runtime_checkable
class Trigger(Protocol):
    """A kind of source."""

    name: ClassVar[str]

    def open(self, ctx: TriggerContext) -> Watch:
        """Start to watch; raise `CollectorError` with a hint if the kernel or the machine does not offer it."""
        ...
