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
from collector.triggers.base import Trigger, TriggerContext, Watch

log = structlog.get_logger()


class Opened:
    """One open trigger."""

    def __init__(self, trigger: CompiledTrigger[Trigger], watch: Watch, loop: Loop, intake: Intake) -> None:
        self.trigger = trigger
        self.watch = watch
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
        """Open every trigger; one that cannot be opened is told and left out, the others watch on."""
        for trigger in triggers:
            ctx = TriggerContext(
                id=trigger.id,
                host=Host(),
                ignore=ignore,
                runtime_directory=runtime_directory,
                remember=self._intake.remember,
                recall=self._intake.recall,
            )
            try:
                self._opened.append(Opened(trigger, trigger.trigger.open(ctx), self._loop, self._intake))
            except (CollectorError, OSError) as exc:
                self.problems[trigger.id] = str(exc)
                hint = getattr(exc, "hint", None)
                log.error("trigger.refused", trigger=trigger.id, error=str(exc), hint=hint)  # noqa: TRY400 - no bug of ours

    def close(self) -> None:
        """Close every trigger."""
        for opened in self._opened:
            opened.close()
        self._opened.clear()
        self._told_lost.clear()
        self.problems.clear()

    @property
    def states(self) -> dict[str, str]:
        """What each trigger does: ``watching``, or why not."""
        return {**{opened.trigger.id: "watching" for opened in self._opened}, **self.problems}

    def lost(self) -> dict[str, int]:
        """Return how many markers each source reports as lost since the last call."""
        more = {}
        for opened in self._opened:
            count = opened.watch.lost - self._told_lost.get(opened.trigger.id, 0)
            if count > 0:
                more[opened.trigger.id] = count
                self._told_lost[opened.trigger.id] = opened.watch.lost
        return more
