"""The open triggers: watches their descriptors in the loop, and passes their markers on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from collector.archive.ledger import Ledger
from collector.daemon.intake import Intake
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.host.files import Host
from collector.model.errors import CollectorError
from collector.model.marker import Marker
from collector.pipeline.generation import Generation
from collector.pipeline.steps import CompiledTrigger
from collector.triggers.base import Trigger, TriggerContext

log = get_logger()


class OpenTrigger:
    """One open trigger."""

    def __init__(
        self, trigger: CompiledTrigger[Trigger], ctx: TriggerContext, loop: Loop, intake: Intake, ledger: Ledger
    ) -> None:
        self.trigger = trigger
        self.ctx = ctx
        self.watch = watch = trigger.trigger.open(ctx)
        self._loop = loop
        self._intake = intake
        self._ledger = ledger
        self._reported = 0
        self._cancel: Callable[[], None] = lambda: None
        if watch.fileno() >= 0:
            loop.watch(watch.fileno(), self._read)
        self._poll()

    def close(self) -> None:
        self._cancel()
        if self.watch.fileno() >= 0:
            self._loop.unwatch(self.watch.fileno())
        self.watch.close()

    def record_lost(self) -> None:
        """Record the markers that the source has lost since the last call."""
        count = self.watch.lost - self._reported
        if count > 0:
            self._reported = self.watch.lost
            self._ledger.add_lost(self.trigger.id, count)
            log.warning("markers.lost", trigger=self.trigger.id, count=count)

    def _read(self) -> None:
        self._take(self.watch.read)

    def _poll(self) -> None:
        self._take(self.watch.poll)
        if self.watch.poll_s is not None:
            self._cancel = self._loop.call_later(self.watch.poll_s, self._poll)

    def _take(self, source: Callable[[], Iterable[Marker]]) -> None:
        try:
            with self._ledger.batch():
                for marker in source():
                    self._intake.offer(marker, self.trigger.pipeline)
        except (CollectorError, OSError) as exc:
            log.warning("trigger.failed", trigger=self.trigger.id, error=str(exc))


class TriggerSet:
    """All triggers of the configuration in force; *ledger* stores small texts for them, and counts what they lose."""

    def __init__(self, loop: Loop, intake: Intake, ledger: Ledger) -> None:
        self._loop = loop
        self._intake = intake
        self._ledger = ledger
        self._open: list[OpenTrigger] = []
        self.problems: dict[str, str] = {}
        """Triggers that could not be opened, and why."""

    def open(self, generation: Generation) -> None:
        """
        Replace the open triggers by those of *generation*.

        One that has not changed keeps watching without a gap. One that cannot be opened is logged and left out.
        """
        wanted = [(trigger, self._context(trigger, generation)) for trigger in generation.triggers]
        self._close([one for one in self._open if (one.trigger, one.ctx) not in wanted])
        self.problems.clear()
        unchanged = [(one.trigger, one.ctx) for one in self._open]
        for trigger, ctx in wanted:
            if (trigger, ctx) in unchanged:
                continue
            try:
                self._open.append(OpenTrigger(trigger, ctx, self._loop, self._intake, self._ledger))
            except (CollectorError, OSError) as exc:
                self.problems[trigger.id] = str(exc)
                hint = getattr(exc, "hint", None)
                log.error("trigger.refused", trigger=trigger.id, error=str(exc), hint=hint)  # noqa: TRY400 - no bug of ours

    def close(self) -> None:
        self._close(list(self._open))

    def record_lost(self) -> None:
        for one in self._open:
            one.record_lost()

    @property
    def states(self) -> dict[str, str]:
        """The state of each trigger: ``watching``, or why it sees less, or nothing."""
        return {**{one.trigger.id: one.watch.degraded or "watching" for one in self._open}, **self.problems}

    def _close(self, some: list[OpenTrigger]) -> None:
        for one in some:
            one.close()
            self._open.remove(one)

    def _context(self, trigger: CompiledTrigger[Trigger], generation: Generation) -> TriggerContext:
        return TriggerContext(
            id=trigger.id,
            host=Host(),
            ignore=(generation.settings.archive, generation.runtime_directory),
            runtime_directory=generation.runtime_directory,
            remember=self._ledger.remember,
            recall=self._ledger.recall,
        )
