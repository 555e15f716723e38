"""What every trigger is: a frozen dataclass whose fields are its YAML keys, which opens a `Watch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from collector.host.files import Host
from collector.host.held_process import HeldProcess
from collector.model.knowledge import Knowledge
from collector.model.marker import Marker
from collector.model.owners import Owners


def ignore_limit(limit: str, owner: str) -> None:
    """Nobody counts what is left out."""


def let_go(held: HeldProcess) -> None:
    """Refuse a process that is held: nobody is there to collect it."""
    held.refuse("nobody collects it")


def give_way(held: HeldProcess, reason: str) -> None:
    """Refuse a process that nobody but the trigger has."""
    held.refuse(reason)


def unguarded(listening_fd: int, hold_s: float) -> None:
    """Nobody watches over who is held."""


class DescriptorStore(Protocol):
    """A trigger's part of the service manager's store, which keeps descriptors while the daemon is restarted."""

    @property
    def stopping(self) -> bool:
        """Return whether the daemon ends; whether it is started again, the manager alone knows."""
        ...

    def stored(self, name: str) -> int | None:
        """Return the descriptor that an earlier run stored under *name*; the caller owns it."""
        ...

    def store(self, name: str, fd: int) -> bool:
        """Store a duplicate of *fd* in place of what has that name; return False if the manager does not answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerContext:
    """
    All that a trigger may know and use.

    Args:
        id: The trigger's id in the configuration; goes into each marker.
        host: Gives access to the kernel's files.
        ignore: Directories whose files are never markers (the archive, the runtime directory).
        runtime_directory: Mode 0700, owned by the daemon: the only place for sockets.
        remember: Stores a small text under a key, durably (a kmsg position, a pstore file seen).
        recall: Returns such a text; ``None`` if there is none.
        owners: Tells which user a uid belongs to.
        hold: Takes over a process that the kernel holds, before its marker is offered: it is kept only if the marker
            becomes a case that is collected now.
        let_go: Takes back what was given to `hold`, and says why.
        guard: Given a listening socket where crashes wait, and the longest time for which a process is held, before the
            first is: nobody is then held for longer, even if the daemon hangs.
        reached: Told of what is left out: the limit, as the operator knows it, and whose it is.
        descriptors: What the service manager keeps across a restart; ``None`` without one.
    """

    id: str
    host: Host
    ignore: tuple[str, ...]
    runtime_directory: str
    remember: Callable[[str, str], None]
    recall: Callable[[str], str | None]
    owners: Owners = field(default_factory=Owners)
    hold: Callable[[HeldProcess], None] = let_go
    let_go: Callable[[HeldProcess, str], None] = give_way
    guard: Callable[[int, float], None] = unguarded
    reached: Callable[[str, str], None] = ignore_limit
    descriptors: DescriptorStore | None = None


class Watch:
    """
    An opened trigger; a subclass overrides what its source has. Nothing here blocks.

    The loop calls `read` while the descriptor is readable, and `poll` at the start and then every `poll_s` seconds.
    A watch that is `gone`, or whose descriptor is, is closed and opened again. Both may be generators, which the loop
    pauses at a marker or at ``None``, commits what it got, and goes on with later; it begins no other meanwhile.
    """

    __slots__ = ()

    @property
    def poll_s(self) -> float | None:
        """Interval of `poll`; ``None``: it is not called again until `read` has given it one."""
        return None

    @property
    def lost(self) -> int:
        """Markers that the source itself has reported as lost so far."""
        return 0

    @property
    def degraded(self) -> str | None:
        """Why it sees less than it should at the moment; ``None`` if it sees all."""
        return None

    @property
    def gone(self) -> str | None:
        """Why it can see nothing any more and must be opened again; ``None`` while it can."""
        return None

    @property
    def waits_for_successor(self) -> bool:
        """Whether it is closed once the daemon is to end, rather than at its end: crashes wait for the next run."""
        return False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to read; -1 if there is none."""
        return -1

    def read(self) -> Iterable[Marker | None]:
        """
        Return markers that are there now, a bounded number; the rest at the next call.

        ``None``: nothing yet; the caller may go on with something else first. At least every few milliseconds.
        """
        return ()

    def poll(self) -> Iterable[Marker | None]:
        """Look for what no descriptor announces: files from before the start, new directories."""
        return ()

    def cores_removed(self, removed: frozenset[tuple[int, int]], problem: str | None) -> None:
        """
        Take note of what the collector removed.

        Args:
            removed: Device and inode of files that were reported, and are archived: another may have the inode now.
            problem: Why others stay; ``None`` if none has to.
        """

    def close(self) -> None:
        """Release all descriptors."""


@runtime_checkable
class Trigger(Protocol):
    """A kind of source; *knows* is what its markers can say, for warnings about conditions that can never hold."""

    name: ClassVar[str]

    @property
    def knows(self) -> Knowledge: ...

    def open(self, ctx: TriggerContext) -> Watch:
        """Start watching; raise `CollectorError` with a hint if that is not possible now: it is tried again."""
        ...
