"""Where the events of incidents go: to the log, to whoever asked for the run, and into what `status` shows."""

from __future__ import annotations

from collections.abc import Callable

from collector.daemon.activity import Activity
from collector.daemon.control import Client
from collector.daemon.journal import log_event
from collector.runner import events


class EventSink:
    """
    Passes each event on.

    Args:
        note: Receives all events, too.
    """

    def __init__(self, note: Callable[[events.AnyEvent], None]) -> None:
        self.activity = Activity()
        self._note = note
        self._clients: dict[str, Client] = {}

    def follow(self, incident: str, client: Client | None) -> None:
        """Send the events of an incident to *client*, if there is one."""
        if client is not None:
            self._clients[incident] = client

    def leave(self, incident: str) -> None:
        """Send no further ones."""
        self._clients.pop(incident, None)

    def __call__(self, event: events.AnyEvent) -> None:
        self.activity.update(event)
        self._note(event)
        log_event(event)
        if (client := self._clients.get(event.incident)) is not None:
            client.send(event)
