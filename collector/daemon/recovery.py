"""What an earlier run of the daemon left in the archive is sealed, except for what can be continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from collector.daemon.intake import Intake
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.daemon.maintenance import Maintenance
from collector.runner.housekeeping import recover
from collector.runner.pool import Pool
from collector.runner.replies import Done

log = get_logger()


@dataclass(slots=True, kw_only=True)
class Recovery:
    """
    Seals it, and tells of it.

    Args:
        archive: Its path.
        boot_id: Of this boot: what began in another one cannot be continued.
    """

    loop: Loop
    pool: Pool
    maintenance: Maintenance
    archive: str
    boot_id: str

    def begin(self, then: Callable[[Done], None]) -> None:
        """Seal what cannot be continued; *then* receives what was sealed, and the ids of what is left."""

        def ended(done: Done) -> None:
            self._tell(done)
            then(done)

        self.loop.spawn(recover(self.pool, self.archive, boot_id=self.boot_id), ended)

    def resume(self, intake: Intake, done: Done) -> None:
        """Have *intake* continue what `begin` left; seal what it does not: of a `collector run`, for example."""
        continued = intake.resume(done.sealed, done.ids)
        if continued != set(done.ids):
            task = recover(self.pool, self.archive, wait_s=0.0, spare=continued)
            self.loop.spawn(task, lambda more: self._ended(intake, more))

    def _ended(self, intake: Intake, done: Done) -> None:
        self._tell(done)
        intake.recovered(done.sealed)

    def _tell(self, done: Done) -> None:
        for incident, state in done.sealed.items():
            log.warning("incident.recovered", incident=incident, state=state)
        self.maintenance.owe_digests(done.sealed)
        if done.reason:
            log.error("archive.failed", error=done.reason, hint=done.hint)
