"""The configured triggers, open: their descriptors in the loop, their markers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from collector.daemon.intake import Intake
from collector.daemon.loop import Loop
from collector.host.files import Host
from collector.model.errors import CollectorError
from collector.model.marker import Marker
from collector.pipeline.steps import CompiledTrigger
from collector.triggers.base import Trigger, TriggerContext

log = structlog.get_logger()


class Opened:
    """One open trigger."""

    def __init__(self, trigger: CompiledTrigger[Trigger], ctx: TriggerContext, loop: Loop, intake: Intake) -> None:
        self.trigger = trigger
        self.ctx = ctx
        self.watch = watch = trigger.trigger.open(ctx)
        self._loop = loop
        self._intake = intake
        self._cancel: Callable[[], None] = lambda: None
        if watch.fileno() >= 0:
            loop.watch(watch.fileno(), self._read)
        self._poll()

    def close(self) -> None:
        """Stop to watch."""
        self._cancel()
        if self.watch.fileno() >= 0:
            self._loop.unwatch(self.watch.fileno())
        self.watch.close()

    def _read(self) -> None:
        self._take(self.watch.read)

    def _poll(self) -> None:
        self._take(self.watch.poll)
        if self.watch.poll_s is not None:
            self._cancel = self._loop.call_later(self.watch.poll_s, self._poll)

    def _take(self, source: Callable[[], Iterable[Marker]]) -> None:
        try:
            with self._intake.batch():
                for marker in source():
                    self._intake.offer(marker, self.trigger.pipeline)
        except (CollectorError, OSError) as exc:
            log.warning("trigger.failed", trigger=self.trigger.id, error=str(exc))


class Watches:
    """
    All triggers of a generation.

    Args:
        loop: Where their descriptors are served.
        intake: Receives every marker, and remembers small texts for triggers.
    """

    def __init__(self, loop: Loop, intake: Intake) -> None:
        self._loop = loop
        self._intake = intake
        self._told_lost: dict[str, int] = {}
        self._opened: list[Opened] = []
        self.problems: dict[str, str] = {}
        """Triggers that could not be opened, and why."""

    def open(
        self, triggers: tuple[CompiledTrigger[Trigger], ...], *, ignore: tuple[str, ...], runtime_directory: str
    ) -> None:
        """
        Watch by these triggers from now on, and by no others.

        One that is open already, and as it should be, watches on without a gap. One that cannot be opened
        is told and left out.
        """
        wanted = [(trigger, self._context(trigger.id, ignore, runtime_directory)) for trigger in triggers]
        self._close([opened for opened in self._opened if (opened.trigger, opened.ctx) not in wanted])
        self.problems.clear()
        watching = [(opened.trigger, opened.ctx) for opened in self._opened]
        for trigger, ctx in wanted:
            if (trigger, ctx) in watching:
                continue
            try:
                self._opened.append(Opened(trigger, ctx, self._loop, self._intake))
            except (CollectorError, OSError) as exc:
                self.problems[trigger.id] = str(exc)
                hint = getattr(exc, "hint", None)
                log.error("trigger.refused", trigger=trigger.id, error=str(exc), hint=hint)  # noqa: TRY400 - no bug of ours

    def close(self) -> None:
        """Close every trigger."""
        self._close(list(self._opened))

    def _close(self, some: list[Opened]) -> None:
        for opened in some:
            opened.close()
            self._opened.remove(opened)
            self._told_lost.pop(opened.trigger.id, None)

    def _context(self, trigger: str, ignore: tuple[str, ...], runtime_directory: str) -> TriggerContext:
        return TriggerContext(
            id=trigger,
            host=Host(),
            ignore=ignore,
            runtime_directory=runtime_directory,
            remember=self._intake.remember,
            recall=self._intake.recall,
        )

    @property
    def states(self) -> dict[str, str]:
        """What each trigger does: ``watching``, or why it sees less, or nothing."""
        return {**{opened.trigger.id: opened.watch.degraded or "watching" for opened in self._opened}, **self.problems}

    def lost(self) -> dict[str, int]:
        """Return how many markers each source reports as lost since the last call."""
        more = {}
        for opened in self._opened:
            count = opened.watch.lost - self._told_lost.get(opened.trigger.id, 0)
            if count > 0:
                more[opened.trigger.id] = count
                self._told_lost[opened.trigger.id] = opened.watch.lost
        return more
