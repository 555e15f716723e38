"""The open triggers: what a reload does not change watches on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import pytest

from collector.daemon.intake import Intake
from collector.daemon.loop import Loop
from collector.daemon.trigger_set import Watches
from collector.model.errors import CollectorError
from collector.model.marker import Marker, MarkerKind
from collector.pipeline.steps import CompiledTrigger
from collector.triggers.base import TriggerContext


@dataclass
class Pipe:
    """A watch on a pipe."""

    poll_s: float | None = None
    lost: int = 0
    degraded: str | None = None
    closed: bool = False
    ends: tuple[int, int] = field(default_factory=os.pipe)

    def fileno(self) -> int:
        return self.ends[0]

    def read(self) -> Iterable[Marker]:
        return [Marker(kind=MarkerKind.EXIT, trigger=os.read(self.ends[0], 9).decode(), at_s=0.0)]

    def poll(self) -> Iterable[Marker]:
        return ()

    def close(self) -> None:
        self.closed = True


opened: list[Pipe] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Piped:
    name: ClassVar[str] = "piped"
    works: bool = True

    def open(self, ctx: TriggerContext) -> Pipe:
        if not self.works:
            raise CollectorError("no")
        opened.append(Pipe())
        return opened[-1]


class Offered:
    """Takes markers, as the intake does."""

    def __init__(self) -> None:
        self.markers: list[tuple[str, str]] = []

    def batch(self) -> Any:
        return nullcontext()

    def offer(self, marker: Marker, pipeline: str) -> None:
        self.markers.append((marker.trigger, pipeline))

    def remember(self, key: str, text: str) -> None: ...

    def recall(self, key: str) -> str | None: ...


@pytest.fixture
def watch() -> Callable[..., Watches]:
    opened.clear()
    intake, loop = Offered(), Loop()
    watches = Watches(loop, cast(Intake, intake))

    def by(*triggers: CompiledTrigger[Any], directory: str = "/run") -> Watches:
        watches.open(triggers, ignore=(), runtime_directory=directory)
        return watches

    by.loop, by.intake = loop, intake  # type: ignore[attr-defined]
    return by


def trigger(name: str, *, pipeline: str = "crash", works: bool = True) -> CompiledTrigger[Any]:
    return CompiledTrigger(id=name, trigger=Piped(works=works), pipeline=pipeline)


def test_watches_keep_what_a_reload_does_not_change(watch: Any) -> None:
    """No gap in which an exit could be missed; what changed is opened anew, what is gone is closed."""
    watch(trigger("same"), trigger("changed"), trigger("gone"))
    same, changed, gone = opened
    watches = watch(trigger("same"), trigger("changed", pipeline="other"))
    assert (same.closed, changed.closed, gone.closed) == (False, True, True)
    assert len(opened) == 4
    assert watches.states == {"same": "watching", "changed": "watching"}


def test_watches_open_anew_when_their_surroundings_change(watch: Any) -> None:
    """A socket lives in the runtime directory."""
    watch(trigger("a"))
    watch(trigger("a"), directory="/elsewhere")
    assert [pipe.closed for pipe in opened] == [True, False]


def test_watches_hand_markers_on_with_their_pipeline(watch: Any) -> None:
    """After a reload, too."""
    watch(trigger("a"))
    watch(trigger("a", pipeline="other"))
    os.write(opened[-1].ends[1], b"marker")
    watch.loop.call_later(0.01, watch.loop.stop)
    watch.loop.run()
    assert watch.intake.markers == [("marker", "other")]


def test_watches_go_on_when_one_cannot_be_opened(watch: Any) -> None:
    """It is told, and tried again at the next reload."""
    watches = watch(trigger("bad", works=False), trigger("good"))
    assert watches.states == {"bad": "no", "good": "watching"}
    assert watch(trigger("bad"), trigger("good")).states == {"bad": "watching", "good": "watching"}


def test_watches_tell_each_loss_once(watch: Any) -> None:
    """What a source reports is a sum; what is handed on is the difference."""
    watches = watch(trigger("a"))
    opened[0].lost = 3
    assert (watches.lost(), watches.lost()) == ({"a": 3}, {})
