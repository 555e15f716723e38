"""Exits and core dumps as the kernel reports them: the netlink proc connector."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from collector.host.netlink import COMM, COREDUMP, EXEC, EXIT, UID, ProcConnector, ProcEvent
from collector.model.case import CORE_SIGNALS
from collector.model.errors import CollectorError
from collector.model.identity import Identity, with_identity
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import DYING_AT, Marker, MarkerKind, ProcessRef
from collector.model.shares import FairTable
from collector.model.signals import signal_name, signal_number
from collector.model.text import printable
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.identities import Identities
from collector.triggers.process_globs import ProcessGlobs

# exec and comm events wait in a socket of their own, which wakes nobody: at 1,000 a second, reading them twice a second
# costs a third of being woken by each.
POLL_S = 0.5
BUFFER_BYTES = 4 << 20
EXITS_PER_READ = 256
IDENTITIES_PER_READ = 2048
MAX_ANNOUNCED = 1024
CORE_NAMES = tuple(sorted(map(signal_name, CORE_SIGNALS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRule(ProcessGlobs):
    """
    Which exits are crashes. An empty list of globs does not restrict.

    Args:
        comm: Globs of command names, of which the kernel keeps 15 characters.
        exe: Globs of executables' paths.
        unit: Globs of systemd units, or of cgroup paths where there is no unit.
        signals: Deaths by one of these signals; names with or without ``SIG``.
        statuses: Exits with one of these statuses.
    """

    signals: tuple[str, ...] = CORE_NAMES
    statuses: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in self.signals:
            signal_number(name)

    @property
    def numbers(self) -> frozenset[int]:
        """The signals as numbers."""
        return frozenset(map(signal_number, self.signals))

    def is_crash(self, number: int, status: int, who: Identity | None, numbers: frozenset[int]) -> bool:
        """Return whether an end by signal *number*, or with *status* if that is 0, is one; *numbers* are the rule's."""
        return (number in numbers or (not number and status in self.statuses)) and self.names(who)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExits:
    """
    Watch for processes that crash.

    Args:
        rules: An exit is a marker if any of them matches.
    """

    name: ClassVar[str] = "process_exits"
    rules: tuple[ExitRule, ...] = (ExitRule(),)

    @property
    def knows(self) -> Knowledge:
        """Every fact; of the signals, those of its rules."""
        return Knowledge(facts=frozenset(FACTS), signals=frozenset().union(*(rule.numbers for rule in self.rules)))

    def open(self, ctx: TriggerContext) -> ProcessExitsWatch:
        """Start watching; raise `CollectorError` without CAP_NET_ADMIN or without the connector."""
        rules = [(rule, rule.numbers) for rule in self.rules]
        try:
            exits = ProcConnector(kinds=COREDUMP | EXIT, buffer_bytes=BUFFER_BYTES)
            try:
                births = ProcConnector(kinds=EXEC | COMM | UID, buffer_bytes=BUFFER_BYTES)
            except OSError:
                exits.close()
                raise
        except OSError as exc:
            hint = "run with CAP_NET_ADMIN" if exc.errno == errno.EPERM else "the kernel needs CONFIG_PROC_EVENTS"
            raise CollectorError(f"trigger {ctx.id}: netlink: {exc.strerror}", hint=hint) from exc
        identities = Identities(ctx.host, ctx.owners)
        identities.learn_all()
        return ProcessExitsWatch(ctx, rules, exits, births, identities)


@dataclass(slots=True)
class ProcessExitsWatch(Watch):
    """An opened `ProcessExits`."""

    ctx: TriggerContext
    rules: list[tuple[ExitRule, frozenset[int]]]
    exits: ProcConnector
    births: ProcConnector
    identities: Identities
    poll_s: float | None = POLL_S
    _announced: FairTable[int, tuple[Identity | None, int]] = field(default_factory=lambda: FairTable(MAX_ANNOUNCED))

    @property
    def lost(self) -> int:
        """Overflows (ENOBUFS) of the socket of exits. A missed birth costs a name, not a marker."""
        return self.exits.overflows

    def fileno(self) -> int:
        return self.exits.fileno()

    def read(self) -> Iterator[Marker | None]:
        yield from self._learn()
        for event in self.exits.read(EXITS_PER_READ):
            yield self._dumping(event) if event.kind == COREDUMP else self._exited(event)

    def poll(self) -> Iterator[None]:
        """Learn new processes; return no markers."""
        return self._learn()

    def close(self) -> None:
        self.exits.close()
        self.births.close()

    def _learn(self) -> Iterator[None]:
        """Learn from exec, comm and uid events; the last of several about one process counts."""
        born: dict[int, bytes] = {}
        users: dict[int, int] = {}
        for event in self.births.read(IDENTITIES_PER_READ):
            if event.kind == UID:
                users[event.pid] = event.uid
            else:
                born[event.pid] = event.comm
        for pid, comm in born.items():
            if comm:
                self.identities.rename(pid, comm)
            else:
                self.identities.learn(pid)
            yield None
        for pid, uid in users.items():
            self.identities.become(pid, uid)
            yield None

    def _dumping(self, event: ProcEvent) -> Marker | None:
        """
        Return the marker of a process that is about to dump core, while ``/proc/PID`` can still be read.

        The event does not name the signal: rules with only some of the signals that dump core wait for the exit.
        """
        who, thread_comm = self.identities.dumping(event.pid, event.thread, event.parent)
        if not any(numbers >= CORE_SIGNALS and rule.names(who) for rule, numbers in self.rules):
            return None
        self._announced.put(event.pid, (who, event.thread), self.ctx.owners.of(None if who is None else who.uid))
        marker = self._marker(
            event, who, "dies of a signal that dumps core", {"core_dumped": "pending", DYING_AT: f"{time.time():.6f}"}
        )
        if who is None or thread_comm in {None, who.comm}:
            return marker
        return msgspec.structs.replace(marker, thread_comm=printable(thread_comm or ""))

    def _exited(self, event: ProcEvent) -> Marker | None:
        """Return the marker of an exit; that of a process that dumped core tells the signal, and if there is a core."""
        who = self.identities.take(event.pid, event.parent)
        number, status = event.code & 0x7F, event.code >> 8
        leader = True
        if (dumped_as := self._announced.pop(event.pid)) is not None:
            announced, thread = dumped_as
            who, leader = announced or who, thread == event.pid
        elif not any(rule.is_crash(number, status, who, numbers) for rule, numbers in self.rules):
            return None
        how = f"died of {signal_name(number)}" if number else f"exited with status {status}"
        dumped = {"core_dumped": "yes" if event.code & 0x80 else "no"} if number else {}
        if not leader and not event.code & 0x80:
            dumped = {}  # only the thread that dumped has the flag for certain
        return self._marker(event, who, how, dumped, number=number or None, status=None if number else status)

    def _marker(
        self, event: ProcEvent, who: Identity | None, how: str, attributes: dict[str, str],
        *, number: int | None = None, status: int | None = None,
    ) -> Marker:  # fmt: skip
        marker = Marker(
            kind=MarkerKind.EXIT,
            trigger=self.ctx.id,
            at_s=time.time(),
            reason=f"process {event.pid} ({printable(who.comm) if who and who.comm else 'unknown'}) {how}",
            process=ProcessRef(pid=event.pid),
            thread=event.thread or None,
            signal=number,
            exit_status=status,
            attributes={"parent": str(event.parent), **attributes},
        )
        return with_identity(marker, who) if who is not None else marker
