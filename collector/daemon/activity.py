"""What `collector status` shows of incidents: kept up to date by the runner's events."""

from __future__ import annotations

import time
from collections import deque

import msgspec

from collector.daemon.messages import Recent, Running
from collector.runner import events

RECENT = 8


class Activity:
    """The incidents under way, and the last few that ended."""

    def __init__(self) -> None:
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        self._running: dict[str, Running] = {}
        self._since_s: dict[str, float] = {}

    @property
    def running(self) -> tuple[Running, ...]:
        """The incidents under way, the oldest first."""
        now_s = time.monotonic()
        return tuple(
            msgspec.structs.replace(running, seconds=round(now_s - self._since_s[incident], 3))
            for incident, running in self._running.items()
        )

    def update(self, event: events.AnyEvent) -> None:
        match event:
            case events.EvidenceRead():
                self._change(event)
            case events.IncidentOpened():
                self._change(event, over_budget=event.over_budget)
            case events.StepStarted():
                self._change(event, step=event.step, waiting_for=None, size_bytes=0, total_bytes=None)
            case events.StepWaiting() | events.StepQueued():
                self._change(event, step=event.step, waiting_for=event.reason)
            case events.StepProgressed():
                slowed = event.slowed or None
                self._change(event, size_bytes=event.size_bytes, total_bytes=event.total_bytes, waiting_for=slowed)
            case events.StepFinished():
                self._change(event, waiting_for=None)
            case events.IncidentArchived():
                known = self._forget(event)
                self.recent.append(
                    Recent(
                        incident=event.incident,
                        state=event.state,
                        ended_s=time.time(),
                        size_bytes=event.size_bytes,
                        over_budget=known.over_budget if known is not None else "",
                    )
                )
            case events.IncidentRefused():
                self._forget(event)

    def _change(self, event: events.AnyEvent, **changes: object) -> None:
        self._since_s.setdefault(event.incident, time.monotonic())
        known = self._running.get(event.incident, Running(incident=event.incident))
        self._running[event.incident] = msgspec.structs.replace(known, **changes)

    def _forget(self, event: events.AnyEvent) -> Running | None:
        self._since_s.pop(event.incident, None)
        return self._running.pop(event.incident, None)
