"""Exits and core dumps as the kernel tells them: the netlink proc connector."""

from __future__ import annotations

import errno
import fnmatch
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from collector.host.netlink import COMM, COREDUMP, EXEC, EXIT, ProcConnector, ProcEvent
from collector.model.case import CORE_SIGNALS
from collector.model.errors import CollectorError, UsageError
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.model.signals import signal_name, signal_number
from collector.model.text import printable
from collector.triggers.base import TriggerContext
from collector.triggers.identities import Identities, Identity

# exec and comm events wait in their own socket and wake nobody: at 1,000 a second, one look in so long costs
# a third of being woken by each.
POLL_S = 0.5
BUFFER_BYTES = 4 << 20
EXITS_PER_READ = 256
IDENTITIES_PER_READ = 2048
MAX_ANNOUNCED = 1024
CORE_NAMES = tuple(sorted(map(signal_name, CORE_SIGNALS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRule:
    """
    Which exits are crashes. Globs; an empty list does not restrict.

    Args:
        comm: Names of commands, at most 15 characters of them.
        exe: Paths of executables.
        unit: Systemd units, or cgroup paths where there is none.
        signals: Deaths by one of these; names with or without ``SIG``.
        statuses: Exits with one of these.
    """

    comm: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    signals: tuple[str, ...] = CORE_NAMES
    statuses: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in self.signals:
            try:
                signal_number(name)
            except ValueError as exc:
                raise UsageError(str(exc)) from exc

    @property
    def numbers(self) -> frozenset[int]:
        """The signals as numbers."""
        return frozenset(map(signal_number, self.signals))

    def names(self, who: Identity | None) -> bool:
        """Return whether the rule is about that process; a rule with names is about none unknown."""
        wanted = ((self.comm, who and who.comm), (self.exe, who and who.exe), (self.unit, who and who.unit))
        return all(
            not globs or (value and any(fnmatch.fnmatchcase(value, glob) for glob in globs)) for globs, value in wanted
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExits:
    """
    Watch for processes that die badly.

    Args:
        rules: An exit that any of them matches is a marker.
    """

    name: ClassVar[str] = "process_exits"
    rules: tuple[ExitRule, ...] = (ExitRule(),)

    def open(self, ctx: TriggerContext) -> ProcessExitsWatch:
        """Start to watch; raise `CollectorError` without CAP_NET_ADMIN or without the connector."""
        rules = [(rule, rule.numbers) for rule in self.rules]
        try:
            exits = ProcConnector(kinds=COREDUMP | EXIT, buffer_bytes=BUFFER_BYTES)
        except OSError as exc:
            hint = "run with CAP_NET_ADMIN" if exc.errno == errno.EPERM else "the kernel needs CONFIG_PROC_EVENTS"
            raise CollectorError(f"trigger {ctx.id}: netlink: {exc.strerror}", hint=hint) from exc
        births = ProcConnector(kinds=EXEC | COMM, buffer_bytes=BUFFER_BYTES)
        asks_exe, asks_unit = any(rule.exe for rule in self.rules), any(rule.unit for rule in self.rules)
        identities = Identities(ctx.host, exe=asks_exe, unit=asks_unit)
        identities.learn_all()
        return ProcessExitsWatch(ctx, rules, exits, births, identities)


@dataclass(slots=True)
class ProcessExitsWatch:
    """An opened `ProcessExits`."""

    ctx: TriggerContext
    rules: list[tuple[ExitRule, frozenset[int]]]
    exits: ProcConnector
    births: ProcConnector
    identities: Identities
    poll_s: float | None = POLL_S
    degraded: str | None = None
    _announced: dict[int, None] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """ENOBUFS of the socket that brings exits. Missed births cost a name, not a marker."""
        return self.exits.overflows

    def fileno(self) -> int:
        """Return the socket of exits and core dumps."""
        return self.exits.fileno()

    def read(self) -> Iterator[Marker]:
        """Yield the markers of the exits that are there now."""
        self._learn()
        for event in self.exits.read(EXITS_PER_READ):
            marker = self._dumping(event) if event.kind == COREDUMP else self._exited(event)
            if marker is not None:
                yield marker

    def poll(self) -> Iterator[Marker]:
        """Learn who was born; no markers."""
        self._learn()
        return iter(())

    def close(self) -> None:
        """End both subscriptions."""
        self.exits.close()
        self.births.close()

    def _learn(self) -> None:
        """Enter what exec and comm events tell; of several execs of one process the last counts."""
        born: dict[int, bytes] = {}
        for event in self.births.read(IDENTITIES_PER_READ):
            born[event.pid] = event.comm
        for pid, comm in born.items():
            if comm:
                self.identities.rename(pid, comm)
            else:
                self.identities.learn(pid)

    def _dumping(self, event: ProcEvent) -> Marker | None:
        """
        Return the marker of a process that is about to dump core: it still lives, and is looked at.

        The event does not name the signal. Rules that want only some of the signals with which
        processes dump wait for the exit.
        """
        who = self.identities.dumping(event.pid, event.parent)
        if not any(numbers >= CORE_SIGNALS and rule.names(who) for rule, numbers in self.rules):
            return None
        self._announced[event.pid] = None
        if len(self._announced) > MAX_ANNOUNCED:
            del self._announced[next(iter(self._announced))]
        return self._marker(event, who, "dumps core", {"core_dumped": "pending"})

    def _exited(self, event: ProcEvent) -> Marker | None:
        """Return the marker of an exit, unless its core dump was one already."""
        if event.pid in self._announced:
            del self._announced[event.pid]
            return None
        who = self.identities.take(event.pid, event.parent)
        number, status = event.code & 0x7F, event.code >> 8
        for rule, numbers in self.rules:
            if (number in numbers or (not number and status in rule.statuses)) and rule.names(who):
                break
        else:
            return None
        how = f"died of {signal_name(number)}" if number else f"exited with status {status}"
        dumped = {"core_dumped": "yes" if event.code & 0x80 else "no"} if number else {}
        return self._marker(event, who, how, dumped, number=number or None, status=None if number else status)

    def _marker(
        self, event: ProcEvent, who: Identity | None, how: str, attributes: dict[str, str],
        *, number: int | None = None, status: int | None = None,
    ) -> Marker:  # fmt: skip
        comm = printable(who.comm) if who else None
        return Marker(
            kind=MarkerKind.EXIT,
            trigger=self.ctx.id,
            at_s=time.time(),
            reason=f"process {event.pid} ({comm or 'unknown'}) {how}",
            process=ProcessRef(pid=event.pid, start_time_ticks=who.start_ticks if who else None),
            comm=comm,
            exe=printable(who.exe) if who and who.exe else None,
            uid=who.uid if who else None,
            unit=printable(who.unit) if who and who.unit else None,
            signal=number,
            exit_status=status,
            attributes={"parent": str(event.parent), **attributes},
        )
