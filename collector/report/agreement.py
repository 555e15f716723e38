"""How the witnesses of a crash agree on what it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from collector.model.marker import Marker
from collector.model.signals import signal_name


class AgreedFact(NamedTuple):
    """A fact, and each value that was reported of it, with the witnesses that did; one value if they agree."""

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def differs(self) -> bool:
        return len(self.values) > 1


_FACTS: tuple[tuple[str, Callable[[Marker], object]], ...] = (
    ("process", lambda marker: marker.process.pid if marker.process else None),
    ("thread", lambda marker: marker.thread),
    ("command", lambda marker: marker.comm),
    ("executable", lambda marker: marker.exe),
    ("user", lambda marker: None if marker.uid is None else f"uid {marker.uid}"),
    ("signal", lambda marker: None if marker.signal is None else signal_name(marker.signal)),
    ("exit status", lambda marker: marker.exit_status),
    ("unit", lambda marker: marker.unit),
    ("core", lambda marker: marker.core.path if marker.core else None),
)


def agreement(markers: Sequence[Marker]) -> list[AgreedFact]:
    """Return the facts that any of *markers* reports, of those that are about this crash."""
    found = []
    for name, read in _FACTS:
        values: dict[str, dict[str, None]] = {}
        for marker in markers:
            if marker.attributed and (value := read(marker)) is not None:
                values.setdefault(str(value), {})[marker.trigger] = None
        if values:
            found.append(AgreedFact(name, tuple((value, tuple(by)) for value, by in values.items())))
    return found
