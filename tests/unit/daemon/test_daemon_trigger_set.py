"""The open triggers: what a reload does not change keeps watching."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from collector.archive.ledger import Ledger
from collector.daemon.intake import Intake
from collector.daemon.loop import Loop
from collector.daemon.trigger_set import TriggerSet
from collector.model.errors import CollectorError
from collector.model.marker import Marker, MarkerKind
from collector.pipeline.generation import Generation
from collector.pipeline.steps import CompiledTrigger
from collector.triggers.base import TriggerContext, Watch


@dataclass
class Pipe(Watch):
    """A watch on a pipe."""

    lost: int = 0
    closed: bool = False
    ends: tuple[int, int] = field(default_factory=os.pipe)

    def fileno(self) -> int:
        return self.ends[0]

    def read(self) -> Iterable[Marker]:
        return [Marker(kind=MarkerKind.EXIT, trigger=os.read(self.ends[0], 9).decode(), at_s=0.0)]

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
    """Receives markers in place of the intake."""

    def __init__(self) -> None:
        self.markers: list[tuple[str, str]] = []

    def offer(self, marker: Marker, pipeline: str) -> None:
        self.markers.append((marker.trigger, pipeline))


class Lab:
    """A trigger set with a ledger of its own."""

    def __init__(self, directory: Path) -> None:
        opened.clear()
        self.loop, self.intake = Loop(), Offered()
        self.ledger = Ledger(str(directory / "ledger.sqlite"))
        self.triggers = TriggerSet(self.loop, cast(Intake, self.intake), self.ledger)

    def open(self, *triggers: CompiledTrigger[Any], directory: str = "/run") -> dict[str, str]:
        """Open *triggers*; return the states of all."""
        generation = SimpleNamespace(
            triggers=triggers, runtime_directory=directory, settings=SimpleNamespace(archive="/archive")
        )
        self.triggers.open(cast(Generation, generation))
        return self.triggers.states


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.ledger.close()


def trigger(name: str, *, pipeline: str = "crash", works: bool = True) -> CompiledTrigger[Any]:
    return CompiledTrigger(id=name, trigger=Piped(works=works), pipeline=pipeline)


def test_trigger_set_keeps_what_a_reload_does_not_change(lab: Lab) -> None:
    """No gap in which an exit could be missed; what changed is reopened, what was removed is closed."""
    lab.open(trigger("same"), trigger("changed"), trigger("gone"))
    same, changed, gone = opened
    states = lab.open(trigger("same"), trigger("changed", pipeline="other"))
    assert (same.closed, changed.closed, gone.closed) == (False, True, True)
    assert len(opened) == 4
    assert states == {"same": "watching", "changed": "watching"}


def test_trigger_set_reopens_when_the_runtime_directory_changes(lab: Lab) -> None:
    """Sockets are in the runtime directory."""
    lab.open(trigger("a"))
    lab.open(trigger("a"), directory="/elsewhere")
    assert [pipe.closed for pipe in opened] == [True, False]


def test_trigger_set_passes_markers_on_with_their_pipeline(lab: Lab) -> None:
    """After a reload, with the new one."""
    lab.open(trigger("a"))
    lab.open(trigger("a", pipeline="other"))
    os.write(opened[-1].ends[1], b"marker")
    lab.loop.call_later(0.01, lab.loop.stop)
    lab.loop.run()
    assert lab.intake.markers == [("marker", "other")]


def test_trigger_set_goes_on_when_one_cannot_be_opened(lab: Lab) -> None:
    """Its state says why, and the next reload tries again."""
    assert lab.open(trigger("bad", works=False), trigger("good")) == {"bad": "no", "good": "watching"}
    assert lab.open(trigger("bad"), trigger("good")) == {"bad": "watching", "good": "watching"}


def test_trigger_set_records_each_loss_once(lab: Lab) -> None:
    """A source reports a total; the ledger gets the difference."""
    lab.open(trigger("a"))
    for total in (3, 3, 5):
        opened[0].lost = total
        lab.triggers.record_lost()
    assert lab.ledger.lost() == {"a": 5}
