"""Cores that are archived are removed from the directories of triggers that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from collector.daemon.journal import get_logger
from collector.pipeline.generation import Generation
from collector.runner.protocol import CoreRule
from collector.runner.replies import Done, RemovedCores

log = get_logger()


@dataclass(slots=True, kw_only=True)
class CoreRemoval:
    """When there may be something to remove, and what is told about it."""

    tell: Callable[[RemovedCores], None]
    """Tells the trigger what was removed of its files, and why others stay."""
    due: bool = True

    def ended(self, done: Done) -> None:
        """Report what was removed; what was interrupted, or is more than a batch, is due again."""
        self.due = self.due or done.rest
        for one in done.cores_removed:
            self.tell(one)
            if one.removed:
                log.info("cores.removed", trigger=one.trigger, count=len(one.removed), size_bytes=one.size_bytes)


def rules_of(generation: Generation) -> tuple[CoreRule, ...]:
    """Return the rules of the triggers whose directories are kept bounded."""
    return tuple(
        CoreRule(
            trigger=one.id,
            files=one.trigger.files,
            remove=one.trigger.remove == "archived",
            size_bytes=one.trigger.size,
        )
        for one in generation.triggers
        if one.trigger.name == "core_files" and (one.trigger.remove == "archived" or one.trigger.size is not None)
    )
