"""What `collector status` shows of the work: followed by the runner's events."""

from __future__ import annotations

import time
from collections import deque

from collector.daemon.messages import Recent, Running
from collector.pipeline import events

RECENT = 8


class Board:
    """The incident under way, and the last few that ended."""

    def __init__(self) -> None:
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        self._incident: str | None = None
        self._since_s = 0.0
        self._step: str | None = None
        self._waiting_for: str | None = None
        self._size_bytes = 0

    @property
    def running(self) -> Running | None:
        """The incident under way."""
        if self._incident is None:
            return None
        return Running(
            incident=self._incident,
            step=self._step,
            waiting_for=self._waiting_for,
            size_bytes=self._size_bytes,
            seconds=round(time.monotonic() - self._since_s, 3),
        )

    def follow(self, event: events.AnyEvent) -> None:
        """Take note of *event*."""
        match event:
            case events.IncidentOpened():
                self._incident, self._since_s = event.incident, time.monotonic()
                self._step, self._waiting_for, self._size_bytes = None, None, 0
            case events.StepStarted():
                self._step, self._waiting_for, self._size_bytes = event.step, None, 0
            case events.StepWaiting():
                self._step, self._waiting_for = event.step, event.reason
            case events.StepProgressed():
                self._size_bytes = event.size_bytes
            case events.IncidentArchived():
                self._incident = None
                self.recent.append(
                    Recent(incident=event.incident, state=event.state, ended_s=time.time(), size_bytes=event.size_bytes)
                )
            case events.IncidentRefused():
                self._incident = None
            case events.StepFinished():
                self._waiting_for = None
