"""The triggers of the configuration in force."""

from __future__ import annotations

from collections.abc import Callable

from collector.archive.ledger import Ledger
from collector.daemon.descriptor_store import StoredDescriptors
from collector.daemon.holding import Holding
from collector.daemon.intake import Intake
from collector.daemon.limits import Limits
from collector.daemon.loop import Loop
from collector.daemon.turns import Turns
from collector.daemon.watched_trigger import WatchedTrigger
from collector.host.files import Host
from collector.model.owners import Owners
from collector.pipeline.generation import Generation
from collector.pipeline.steps import CompiledTrigger
from collector.runner.replies import RemovedCores
from collector.triggers.base import Trigger, TriggerContext


class TriggerSet:
    """
    All triggers of the configuration in force.

    Args:
        loop: Watches their descriptors.
        intake: Takes their markers.
        ledger: Stores small texts for them, and counts what they lose.
        holding: Takes the processes that they hold.
        limits: Counts what they leave out.
        changed: Called when the state of one has changed.
        descriptors: What the service manager keeps for them.
    """

    def __init__(
        self,
        loop: Loop,
        intake: Intake,
        ledger: Ledger,
        *,
        holding: Holding,
        limits: Limits,
        changed: Callable[[], None] = lambda: None,
        descriptors: StoredDescriptors | None = None,
    ) -> None:
        self._loop = loop
        self._turns = Turns(loop)
        self._intake = intake
        self._ledger = ledger
        self._holding = holding
        self._limits = limits
        self._changed = changed
        self._descriptors = descriptors
        self._triggers: list[WatchedTrigger] = []

    def open(self, generation: Generation) -> None:
        """
        Replace the triggers by those of *generation*.

        One that has not changed keeps watching without a gap. One that cannot be opened is tried again by itself.
        """
        wanted = [(trigger, self._context(trigger, generation)) for trigger in generation.triggers]
        self._close([one for one in self._triggers if (one.trigger, one.ctx) not in wanted])
        unchanged = [(one.trigger, one.ctx) for one in self._triggers]
        for one in self._triggers:
            one.open()
        self._triggers += [
            WatchedTrigger(
                trigger, ctx, self._loop, self._intake, self._ledger, turns=self._turns, changed=self._changed
            )
            for trigger, ctx in wanted
            if (trigger, ctx) not in unchanged
        ]
        if self._descriptors is not None:
            self._descriptors.keep([trigger.id for trigger, _ in wanted])

    def leave(self) -> None:
        """Close those whose crashes can wait for the next run, or go to whom they went before: this one will end."""
        self._close([one for one in self._triggers if one.waits_for_successor])

    def close(self) -> None:
        self._close(list(self._triggers))

    def check(self) -> None:
        """Open again what lost its source, and record lost markers."""
        for one in self._triggers:
            one.check()

    def cores_removed(self, one: RemovedCores) -> None:
        """Tell a trigger what was removed of its files."""
        places = (place.partition(":") for place in one.removed)
        removed = frozenset((int(device), int(inode)) for device, _, inode in places)
        for known in self._triggers:
            if known.trigger.id == one.trigger:
                known.cores_removed(removed, one.problem or None)

    @property
    def states(self) -> dict[str, str]:
        """The state of each trigger: ``watching``, or ``degraded`` and why it sees less, or nothing."""
        return {
            one.trigger.id: "watching" if one.degraded is None else f"degraded: {one.degraded}"
            for one in self._triggers
        }

    def _close(self, some: list[WatchedTrigger]) -> None:
        for one in some:
            one.close()
            self._triggers.remove(one)

    def _context(self, trigger: CompiledTrigger[Trigger], generation: Generation) -> TriggerContext:
        return TriggerContext(
            id=trigger.id,
            host=Host(),
            ignore=(generation.settings.archive, generation.runtime_directory),
            runtime_directory=generation.runtime_directory,
            remember=self._ledger.remember,
            recall=self._ledger.recall,
            # Without the units, which no trigger asks for: one whose context changes is opened anew.
            owners=Owners(subordinate=generation.settings.owners.subordinate),
            hold=self._holding.add,
            let_go=self._holding.let_go,
            guard=self._holding.guard,
            reached=self._limits.reached,
            descriptors=None if self._descriptors is None else self._descriptors.of(trigger.id),
        )
