"""What the tests of triggers share: a context without a daemon, and the loop's part."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from collector.host.files import Host
from collector.model.marker import Marker
from collector.triggers.base import Trigger, TriggerContext, Watch


def trigger_context(
    directory: Path, *, root: str = "/", ignore: tuple[str, ...] = (), notes: dict[str, str] | None = None
) -> TriggerContext:
    """Return the context of a trigger ``test`` whose runtime directory is *directory*; *notes* is what it remembers."""
    notes = {} if notes is None else notes
    return TriggerContext(
        id="test",
        host=Host(root=root),
        ignore=ignore,
        runtime_directory=str(directory),
        remember=notes.__setitem__,
        recall=notes.get,
    )


@contextmanager
def opened(trigger: Trigger, ctx: TriggerContext) -> Iterator[Watch]:
    """Open a trigger as the daemon does, and close it at the end."""
    watch = trigger.open(ctx)
    try:
        assert told(watch.poll()) == []
        yield watch
    finally:
        watch.close()


def drain(watch: Watch) -> list[Marker]:
    """Call `read` until nothing is left; on a busy machine, where others crash all the time, for a second at most."""
    markers: list[Marker] = []
    end_s = time.monotonic() + 1.0
    while time.monotonic() < end_s and select.select([watch], [], [], 0.2)[0]:
        markers += told(watch.read())
    return markers


def told(source: Iterable[Marker | None]) -> list[Marker]:
    """Return the markers of one call of `read` or `poll`, without its pauses."""
    return [marker for marker in source if marker is not None]


def of_process(markers: list[Marker], pid: int) -> list[Marker]:
    """Return the markers of one process: others crash meanwhile."""
    return [marker for marker in markers if pid in (marker.process.pid if marker.process else None, marker.thread)]
