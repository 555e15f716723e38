"""Where the events of incidents go: to the log, to whoever asked for the run, into what `status` shows, and counted."""

from __future__ import annotations

from collections.abc import Callable

from collector.daemon.activity import Activity
from collector.daemon.control import Client
from collector.daemon.counters import Counters
from collector.daemon.journal import log_event
from collector.model.case import Case
from collector.runner import events


class EventSink:
    """
    Passes each event on.

    Args:
        note: Receives all events, too.
    """

    def __init__(self, note: Callable[[events.AnyEvent], None]) -> None:
        self.activity = Activity()
        self.counters = Counters()
        self._note = note
        self._clients: dict[str, Client] = {}
        self._cases: dict[str, Case] = {}

    def follow(self, incident: str, case: Case, client: Client | None) -> None:
        """Log of the incident's events that they are about *case*, and send them to *client*, if there is one."""
        self._cases[incident] = case
        if client is not None:
            self._clients[incident] = client

    def leave(self, incident: str) -> None:
        """Forget the incident: it has ended."""
        self._cases.pop(incident, None)
        self._clients.pop(incident, None)

    def __call__(self, event: events.AnyEvent) -> None:
        self.activity.update(event)
        self.counters.update(event)
        self._note(event)
        case = self._cases.get(event.incident)
        log_event(event, None if case is None else lambda: case.marker)
        if (client := self._clients.get(event.incident)) is not None:
            client.send(event)
