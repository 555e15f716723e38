"""What the daemon answers on its control socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from collector.archive.ledger import Ledger
from collector.daemon.control import Client
from collector.daemon.flight_recorder import FlightRecorder
from collector.daemon.intake import Intake
from collector.daemon.journal import get_logger
from collector.daemon.messages import (
    DrainRequest,
    MetricsRequest,
    ReloadRequest,
    Reply,
    Request,
    RunRequest,
    StatusRequest,
    WatchRequest,
)
from collector.daemon.metrics import Metrics
from collector.daemon.reload import Configuration
from collector.daemon.status_report import StatusReport
from collector.daemon.trigger_set import TriggerSet

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """
    Answers each request; a run by hand is answered by its events.

    Args:
        reload: Loads the configuration again.
        ending: Returns whether nothing more begins.
        drained: Called when a drain has begun or ended.
    """

    report: StatusReport
    recorder: FlightRecorder
    metrics: Metrics
    intake: Intake
    ledger: Ledger
    triggers: TriggerSet
    configuration: Configuration
    reload: Callable[[], None]
    ending: Callable[[], bool]
    drained: Callable[[], None]

    def handle(self, client: Client, request: Request) -> None:
        """Answer *request*."""
        match request:
            case StatusRequest():
                client.send(self.report.status(self.intake, self.ledger, self.triggers))
                client.sock.close()
            case WatchRequest():
                client.send(self.recorder.watched(request.since_s))
                client.sock.close()
            case MetricsRequest():
                self.metrics.tell(client)
            case ReloadRequest():
                self.reload()
                client.end(self.configuration.reply())
            case DrainRequest():
                self._drain(on=not request.off)
                client.end(Reply())
            case RunRequest():
                self._run(request, client)

    def _drain(self, *, on: bool) -> None:
        drained = self.intake.drained_s is not None
        if on and not drained:
            log.info("drain.started", queued=self.intake.queued)
        elif drained and not on:
            log.info("drain.ended", queued=self.intake.queued)
        self.intake.drain(on=on)
        self.drained()

    def _run(self, request: RunRequest, client: Client) -> None:
        if self.ending():
            client.end(Reply(exit_code=69, message="the daemon is stopping", hint="try again once it has started"))
        else:
            self.intake.by_hand(request, client)
