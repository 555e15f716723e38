"""Crashes that the kernel hands over: it holds each process until its evidence is collected, or its dump refused."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import msgspec

from collector.host.core_pattern_owner import has_coredump_socket, pattern_in_force, unusable
from collector.host.held_process import HeldProcess
from collector.host.procfs import PAGE_BYTES
from collector.model.case import CORE_SIGNALS
from collector.model.constrained import Window
from collector.model.errors import CollectorError
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import HELD_DUMP, Marker, ProcessRef
from collector.model.shares import gives_way
from collector.model.units import Reserve, Seconds, size
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.kernel_cores.crashed_process import CrashedProcess, crashed_process
from collector.triggers.kernel_cores.dump_offer import GONE, DumpOffer, OfferSource
from collector.triggers.kernel_cores.dump_rule import DumpRule
from collector.triggers.kernel_cores.pipe_source import PipeSource
from collector.triggers.kernel_cores.registration import CHECK_S, Registration
from collector.triggers.kernel_cores.socket_source import SocketSource

WAITING, MEMORY = "waiting", "memory"
HALF = Reserve(percent=50.0)
PIPES = 2
"""``core_pipe_limit`` is `waiting` times this: some are about to be refused, and the kernel loses those beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCores:
    """
    Take over every process that crashes, from the kernel, which holds it meanwhile.

    Args:
        mode: How the kernel hands them over: by its coredump ``socket`` (Linux 6.17), or by the ``pipe`` of a handler
            that it starts; ``auto``: by the socket where there is one.
        register: Set ``core_pattern`` while the trigger watches. ``takeover`` also replaces another program's or
            socket's; with ``false``, somebody else has to set it.
        hold: Longest time for which a process is held.
        waiting: How many are held at a time; of more, the dump is refused, and the rest is collected. One of the owner
            who has most of them gives way to another owner's.
        memory: How much private memory all that are held may have, of the machine's; the first one may have any.
        refuse: Whose crashes are left alone: the dump is refused, and nothing is collected by this trigger.
    """

    name: ClassVar[str] = "kernel_cores"
    knows: ClassVar[Knowledge] = Knowledge(facts=frozenset(FACTS), signals=CORE_SIGNALS)
    mode: Literal["auto", "socket", "pipe"] = "auto"
    register: bool | Literal["takeover"] = True
    hold: Window = Seconds(30.0)
    waiting: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 8
    memory: Reserve = HALF
    refuse: tuple[DumpRule, ...] = ()

    def open(self, ctx: TriggerContext) -> KernelCoresWatch:
        """Listen, then let the kernel know; raise `CollectorError` if the kernel has no such socket."""
        release = os.uname().release
        if self.mode == "socket" and not has_coredump_socket(release):
            raise CollectorError(
                f"trigger {ctx.id}: Linux {release} has no coredump socket", hint="write mode: auto, or mode: pipe"
            )
        return KernelCoresWatch(self, ctx)


class _Held(NamedTuple):
    """A process that is held, and who pays for it."""

    process: HeldProcess
    owner: str


class KernelCoresWatch(Watch):
    """An opened `KernelCores`."""

    waits_for_successor = True

    def __init__(self, trigger: KernelCores, ctx: TriggerContext) -> None:
        self._trigger = trigger
        self._ctx = ctx
        self._held: list[_Held] = []
        self._not_in_force: str | None = None
        self._source = self._listen()
        ctx.guard(self._source.queue_fd, trigger.hold)
        self._registration: Registration | None = None
        if trigger.register:
            self._registration = Registration(ctx, takeover=trigger.register == "takeover")
            self._not_in_force = self._registration.register(self._source.pattern, self._source.pipe_limit)

    @property
    def poll_s(self) -> float:
        return CHECK_S if self._registration is None else self._registration.check_s

    @property
    def degraded(self) -> str | None:
        return self._not_in_force

    @property
    def gone(self) -> str | None:
        return self._source.gone

    def fileno(self) -> int:
        return self._source.fileno()

    def read(self) -> Iterator[Marker | None]:
        for offer in self._source.offers():
            yield self._take(offer) if offer is not None else None

    def poll(self) -> Iterator[None]:
        """Look whether ``core_pattern`` still leads here."""
        if self._registration is not None:
            self._not_in_force = self._registration.check()
        else:
            self._not_in_force = self._elsewhere()
        yield None

    def close(self) -> None:
        """Let the kernel hand crashes to whom it did before, unless a successor takes them over."""
        keep = False
        try:
            keep = self._registration is not None and self._registration.close()
        finally:
            self._source.close(keep=keep)

    def _listen(self) -> OfferSource:
        trigger, store = self._trigger, bool(self._trigger.register)
        if trigger.mode == "socket" or (trigger.mode == "auto" and has_coredump_socket(os.uname().release)):
            return SocketSource(self._ctx, self._left_out, store=store)
        return PipeSource(self._ctx, self._left_out, pipe_limit=PIPES * trigger.waiting, store=store)

    def _elsewhere(self) -> str | None:
        """Return where ``core_pattern`` leads, if not here, or why it cannot lead here."""
        now, wanted = pattern_in_force(self._ctx.host), self._source.pattern
        if now == wanted:
            return None
        return unusable(wanted) or f"core_pattern is {now!r}; set it to {wanted!r}, or write register: true"

    def _take(self, offer: DumpOffer) -> Marker | None:
        """Hold the process that is offered, or refuse its dump; return its marker unless a rule wants none."""
        crashed = crashed_process(self._ctx.host, offer)
        if crashed is None or crashed.who.start_ticks is None:
            offer.refuse()
            self._left_out(GONE, None)
            return None
        if any(rule.refuses(crashed.who) for rule in self._trigger.refuse):
            offer.refuse()
            self._left_out("refuse", crashed.who.uid)
            return None
        owner = self._ctx.owners.of(crashed.who.uid, unit=crashed.who.system_unit)
        if (excess := self._make_room(crashed, owner)) is not None:
            limit, reason = excess
            offer.refuse()
            self._ctx.reached(f"{KernelCores.name}.{limit}", owner)
            return crashed.marker(self._ctx.id, reason)
        self._hold(offer, crashed, crashed.who.start_ticks, owner)
        return crashed.marker(self._ctx.id, HELD_DUMP)

    def _make_room(self, crashed: CrashedProcess, owner: str) -> tuple[str, str] | None:
        """
        Let go of those whose owner holds more than *owner* would with one more; the newest has been waited for least.

        Returns:
            The limit that is still exceeded, and the reason; ``None`` if the process may be held.
        """
        self._held = [held for held in self._held if held.process.is_held]
        while (excess := self._excess(crashed)) is not None:
            limit = excess[0]
            use = self._use_of(limit)
            asked = {owner: use.get(owner, 0.0) + (1 if limit == WAITING else crashed.memory_bytes)}
            last = gives_way(asked | {one: used for one, used in use.items() if one != owner}, self._limit(limit))
            if last == owner:
                return excess
            newest = next(held for held in reversed(self._held) if held.owner == last)
            self._ctx.let_go(newest.process, f"it gave way to a crash of {owner}: {last} had most of those held")
            self._ctx.reached(f"{KernelCores.name}.{limit}", last)
            self._held.remove(newest)
        return None

    def _use_of(self, limit: str) -> Counter[str]:
        """Return what each owner has of a limit; it is given back."""
        use: Counter[str] = Counter()
        for held in self._held:
            use[held.owner] += 1 if limit == WAITING else held.process.memory_bytes
        return use

    def _limit(self, limit: str) -> int:
        if limit == WAITING:
            return self._trigger.waiting
        return self._trigger.memory.bytes_of(os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES)

    def _excess(self, crashed: CrashedProcess) -> tuple[str, str] | None:
        """Return the limit that one more would exceed, and the reason; ``None`` if it may be held."""
        if (count := len(self._held)) >= self._limit(WAITING):
            return WAITING, f"its dump was refused: {count} crashed processes are held already"
        total_bytes = crashed.memory_bytes + sum(held.process.memory_bytes for held in self._held)
        if self._held and total_bytes > (allowed_bytes := self._limit(MEMORY)):
            held = f"{count} crashed processes and this one have {size(total_bytes)}"
            return MEMORY, f"its dump was refused: {held}, of {size(allowed_bytes)} that may be held"
        return None

    def _hold(self, offer: DumpOffer, crashed: CrashedProcess, start_ticks: int, owner: str) -> None:
        now_s = time.monotonic()
        held = HeldProcess(
            process=ProcessRef(pid=offer.pid, start_time_ticks=start_ticks),
            source=offer.source,
            stream_fd=offer.stream_fd,
            pidfd=offer.pidfd,
            since_s=now_s,
            deadline_s=now_s + self._trigger.hold,
            memory_bytes=crashed.memory_bytes,
        )
        self._held.append(_Held(held, owner))
        self._ctx.hold(held)

    def _left_out(self, limit: str, uid: int | None) -> None:
        self._ctx.reached(f"{KernelCores.name}.{limit}", self._ctx.owners.of(uid))
