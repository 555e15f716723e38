"""What the daemon does between incidents: maintenance of the archive, and handing incidents over."""

from __future__ import annotations

from collections.abc import Callable

from collector.daemon.core_removal import CoreRemoval
from collector.daemon.event_sink import EventSink
from collector.daemon.handovers import Handovers
from collector.daemon.loop import Loop
from collector.daemon.maintenance import Maintenance
from collector.pipeline.generation import Generation
from collector.pressure.sampler import Sampler
from collector.runner.pool import Pool
from collector.runner.replies import RemovedCores


class IdleWork:
    """
    Does what is due while nothing is collected.

    Args:
        generation: Returns the configuration in force.
        busy: Returns whether an incident is under way.
        tell: Tells a trigger what was removed of its files, and why others stay.
        handed_over: Called when a hand-over has ended for which the daemon's own end waits.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        pool: Pool,
        sampler: Sampler,
        events: EventSink,
        generation: Callable[[], Generation],
        busy: Callable[[], bool],
        tell: Callable[[RemovedCores], None],
        handed_over: Callable[[], None],
    ) -> None:
        self.maintenance = Maintenance(
            loop=loop,
            pool=pool,
            sampler=sampler,
            generation=generation,
            busy=busy,
            report=events,
            removal=CoreRemoval(tell=tell),
            counters=events.counters,
        )
        self.handovers = Handovers(
            loop=loop,
            pool=pool,
            sampler=sampler,
            generation=generation,
            busy=busy,
            report=events,
            stopped=handed_over,
        )

    def archived(self, incident: str, owner: str) -> None:
        """Note an incident that may lack digests, and is to be handed over."""
        self.maintenance.owe_digests((incident,))
        self.handovers.owe(incident, owner)

    def reloaded(self) -> None:
        """Look at once what a new configuration asks for."""
        self.maintenance.owe_digests(())  # cores may have to be removed now
        self.handovers.turn()

    def turn(self) -> None:
        """Do what is due, unless an incident is under way."""
        self.maintenance.turn()
        self.handovers.turn()
