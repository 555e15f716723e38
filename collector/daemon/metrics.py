"""The metrics in the daemon: for who asks on the control socket, and in a file for node_exporter."""

from __future__ import annotations

from collections.abc import Callable

from collector.archive.ledger import Ledger
from collector.daemon.control import Client
from collector.daemon.counters import Counters
from collector.daemon.intake import Intake
from collector.daemon.loop import Loop
from collector.daemon.messages import MetricsText, Reply
from collector.daemon.metrics_report import MetricsReport
from collector.daemon.status_report import StatusReport
from collector.daemon.textfile import Textfile
from collector.daemon.trigger_set import TriggerSet

PIECE = 10_000
"""Characters of a message; as JSON, one takes 6 bytes at most, of the 64 KiB that a message may have."""


class Metrics:
    """
    Tells what the daemon counts.

    Args:
        may_fork: Returns whether the process that writes the file may be forked now.
    """

    def __init__(
        self, loop: Loop, counters: Counters, status_report: StatusReport, may_fork: Callable[[], bool]
    ) -> None:
        self._report = MetricsReport(counters=counters, status_report=status_report)
        self._text: Callable[[], str] = str
        self._textfile = Textfile(loop, may_fork)

    @property
    def pids(self) -> tuple[int, ...]:
        """The collector's processes that write the file."""
        return self._textfile.pids

    def start(self, intake: Intake, ledger: Ledger, triggers: TriggerSet) -> None:
        """Tell of these, too; none is there before recovery has ended, and nobody asks before that."""
        self._text = lambda: self._report.text(intake, ledger, triggers)
        configuration = self._report.status_report.configuration
        self._textfile.start(lambda: configuration.generation.loaded.config.metrics.textfile, self._text)

    def write(self) -> None:
        """Write the file now, if one is wanted: its name, and what it says of the configuration, may be new."""
        self._textfile.turn()

    def tell(self, client: Client) -> None:
        """Answer a `MetricsRequest`."""
        text = self._text()
        for start in range(0, len(text), PIECE):
            client.send(MetricsText(text=text[start : start + PIECE]))
        client.end(Reply())

    def close(self) -> None:
        self._textfile.close()
