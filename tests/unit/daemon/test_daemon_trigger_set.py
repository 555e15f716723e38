"""The open triggers: what a reload does not change keeps watching."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from collector.archive.ledger import Ledger
from collector.daemon import watched_trigger
from collector.daemon.holding import Holding
from collector.daemon.intake import Intake
from collector.daemon.limits import Limits
from collector.daemon.loop import Loop
from collector.daemon.trigger_set import TriggerSet
from collector.daemon.turns import TURN_MARKERS
from collector.model.errors import CollectorError
from collector.model.marker import Marker, MarkerKind
from collector.model.owners import Owners, SubordinateUids
from collector.pipeline.generation import Generation
from collector.pipeline.steps import CompiledTrigger
from collector.triggers.base import TriggerContext, Watch


@dataclass
class Pipe(Watch):
    """A watch on a pipe."""

    lost: int = 0
    closed: bool = False
    broken: bool = False
    ends: tuple[int, int] = field(default_factory=os.pipe)

    def fileno(self) -> int:
        return self.ends[0]

    def read(self) -> Iterable[Marker]:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return [Marker(kind=MarkerKind.EXIT, trigger=os.read(self.ends[0], 9).decode(), at_s=0.0)]

    def close(self) -> None:
        self.closed = True


opened: list[Pipe] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Piped:
    name: ClassVar[str] = "piped"
    works: bool = True
    failures: list[int] = field(default_factory=list, compare=False)

    def open(self, ctx: TriggerContext) -> Pipe:
        if not self.works or self.failures:
            self.failures[:1] = []
            raise CollectorError(f"trigger {ctx.id}: no")
        opened.append(Pipe())
        return opened[-1]


@dataclass(frozen=True)
class Ready:
    """Opens a watch that there is already."""

    watch: Pipe
    name: ClassVar[str] = "ready"

    def open(self, _ctx: TriggerContext) -> Pipe:
        return self.watch


class Offered:
    """Receives markers in place of the intake."""

    def __init__(self) -> None:
        self.markers: list[tuple[str, str]] = []

    def offer(self, marker: Marker, pipeline: str) -> None:
        self.markers.append((marker.trigger, pipeline))


NOBODYS = Owners()


class Lab:
    """A trigger set with a ledger of its own."""

    def __init__(self, directory: Path) -> None:
        opened.clear()
        self.loop, self.intake = Loop(), Offered()
        self.ledger = Ledger(str(directory / "ledger.sqlite"))
        self.triggers = TriggerSet(
            self.loop, cast(Intake, self.intake), self.ledger, holding=Holding(self.loop), limits=Limits(self.loop)
        )

    def run(self, seconds: float) -> dict[str, str]:
        """Run the loop for a while; return the states of all."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()
        return self.triggers.states

    def open(
        self, *triggers: CompiledTrigger[Any], directory: str = "/run", owners: Owners = NOBODYS
    ) -> dict[str, str]:
        """Open *triggers*; return the states of all."""
        settings = SimpleNamespace(archive="/archive", owners=owners)
        generation = SimpleNamespace(triggers=triggers, runtime_directory=directory, settings=settings)
        self.triggers.open(cast(Generation, generation))
        return self.triggers.states


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.ledger.close()


def trigger(name: str, *, pipeline: str = "crash", works: bool = True) -> CompiledTrigger[Any]:
    return CompiledTrigger(id=name, trigger=Piped(works=works), pipeline=pipeline)


def test_trigger_set_tells_triggers_whose_uids_are_whose(lab: Lab) -> None:
    """One keeps watching where another unit is protected, and learns of new subordinate uids."""
    users = (SubordinateUids(first=300_000, count=65_536, uid=1000),)
    lab.open(trigger("one"), owners=Owners(subordinate=users))
    lab.open(trigger("one"), owners=Owners(subordinate=users, units=frozenset({"engine.service"})))
    assert [watch.closed for watch in opened] == [False]
    lab.open(trigger("one"))
    assert [watch.closed for watch in opened] == [True, False]


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
    lab.run(0.01)
    assert lab.intake.markers == [("marker", "other")]


def test_trigger_set_goes_on_when_one_cannot_be_opened(lab: Lab) -> None:
    """Its state says why, and the next reload tries again at once."""
    assert lab.open(trigger("bad", works=False), trigger("good")) == {
        "bad": "degraded: no",
        "good": "watching",
    }
    assert lab.open(trigger("bad"), trigger("good")) == {"bad": "watching", "good": "watching"}


def test_trigger_set_records_each_loss_once(lab: Lab) -> None:
    """A source reports a total; the ledger gets the difference."""
    lab.open(trigger("a"))
    for total in (3, 3, 5):
        opened[0].lost = total
        lab.triggers.check()
    assert lab.ledger.lost() == {"a": 5}


def test_trigger_set_opens_again_what_could_not_be_opened(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, after a pause that grows."""
    monkeypatch.setattr(watched_trigger, "FIRST_PAUSE_S", 0.1)
    failing = Piped(failures=[1, 2, 3])
    assert lab.open(CompiledTrigger(id="a", trigger=failing, pipeline="crash")) == {"a": "degraded: no"}
    assert lab.run(0.5) == {"a": "degraded: no"}  # tried after 0.1 s and 0.3 s
    assert len(failing.failures) == 0
    assert lab.run(0.4) == {"a": "watching"}
    os.write(opened[-1].ends[1], b"marker")
    lab.run(0.01)
    assert lab.intake.markers == [("marker", "crash")]


@pytest.mark.parametrize("replaced", [False, True])
def test_trigger_set_opens_again_what_lost_its_descriptor(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """Also if the descriptor's number belongs to another file by now: nothing is read from that one."""
    monkeypatch.setattr(watched_trigger, "FIRST_PAUSE_S", 0.01)
    lab.open(trigger("a"))
    fd = opened[0].ends[0]
    if replaced:
        with open("/dev/null", "rb") as other:
            os.dup2(other.fileno(), fd)  # at once: to be given this number next, others may have to be closed by then
    else:
        os.close(fd)
    lab.triggers.check()
    assert lab.triggers.states["a"].startswith("degraded: ")
    assert lab.run(0.1) == {"a": "watching"}
    assert len(opened) == 2
    os.write(opened[1].ends[1], b"marker")
    lab.run(0.01)
    assert lab.intake.markers == [("marker", "crash")]


def test_trigger_set_opens_again_what_cannot_be_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that fails again and again neither spins nor floods the log; its reason is shown until it works."""
    monkeypatch.setattr(watched_trigger, "FIRST_PAUSE_S", 0.1)
    said: list[str] = []
    monkeypatch.setattr(watched_trigger.log, "error", lambda event, **_: said.append(event))
    monkeypatch.setattr(watched_trigger.log, "warning", lambda event, **_: said.append(event))
    lab.open(trigger("a"))
    opened[0].broken = True
    os.write(opened[0].ends[1], b"marker")
    assert lab.run(0.05) == {"a": "degraded: [Errno 5] Input/output error"}
    assert opened[0].closed
    assert said == ["trigger.degraded"]
    assert lab.run(0.2) == {"a": "watching"}


def test_trigger_set_follows_a_descriptor_that_comes_later(lab: Lab) -> None:
    """Memory pressure is polled until the kernel has PSI, and is woken by it from then on."""
    lab.open(trigger("a"))
    late = opened[0]
    lab.open()
    ends, late.ends = late.ends, (-1, -1)
    lab.open(CompiledTrigger(id="a", trigger=Ready(late), pipeline="crash"))
    late.ends = ends
    lab.triggers.check()
    os.write(ends[1], b"marker")
    lab.run(0.01)
    assert lab.intake.markers == [("marker", "crash")]


@dataclass
class Waiting(Pipe):
    """What it reads takes a moment to become a marker."""

    poll_s: float | None = None
    polls: int = 0

    def read(self) -> Iterable[Marker]:
        os.read(self.ends[0], 9)
        self.poll_s = 0.01
        return []

    def poll(self) -> Iterable[Marker]:
        self.polls += 1
        if self.poll_s is None:
            return []
        self.poll_s = None
        return [Marker(kind=MarkerKind.EXIT, trigger="late", at_s=0.0)]


def test_trigger_set_polls_while_a_watch_asks_for_it(lab: Lab) -> None:
    """One that has nothing to wait for is not polled; it is from when a read says so, and until it says so no more."""
    watch = Waiting()
    lab.open(CompiledTrigger(id="a", trigger=Ready(watch), pipeline="crash"))
    lab.run(0.05)
    assert watch.polls == 1
    for told in (1, 2):
        os.write(watch.ends[1], b"marker")
        lab.run(0.1)
        assert (watch.polls, len(lab.intake.markers)) == (1 + told, told)


@dataclass
class Endless(Pipe):
    """A source of which there is always more; ``None`` comes between two markers."""

    marker: str = "more"
    given: int = 0
    ended: bool = False

    def poll(self) -> Iterator[Marker | None]:
        try:
            while True:
                self.given += 1
                yield Marker(kind=MarkerKind.EXIT, trigger=self.marker, at_s=0.0)
                yield None
        finally:
            self.ended = True


@dataclass
class Flapping(Pipe):
    """A watch whose state a user can change."""

    degraded: str | None = None


def ready(watch: Pipe) -> CompiledTrigger[Any]:
    return CompiledTrigger(id=f"{id(watch)}", trigger=Ready(watch), pipeline="crash")


def test_trigger_set_pauses_a_trigger_that_never_ends(lab: Lab) -> None:
    """The loop goes on, other triggers have their turn, and what was begun is not begun again."""
    endless, other, turns = Endless(), Endless(marker="other"), 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        lab.loop.call_later(0.0, turn)

    lab.open(ready(endless), ready(other), trigger("quick"))
    lab.loop.call_later(0.0, turn)
    os.write(opened[-1].ends[1], b"marker")
    lab.run(0.3)
    assert lab.intake.markers.count(("marker", "crash")) == 1
    assert turns > 5
    assert 0.5 < endless.given / other.given < 2
    assert len(lab.intake.markers) == endless.given + other.given + 1
    lab.open()
    assert endless.ended, "what was begun is closed with its trigger"


def test_trigger_set_gives_one_turn_a_bounded_number_of_markers(lab: Lab) -> None:
    """Whatever the triggers offer, and however quickly."""
    endless = Endless()
    lab.open(ready(endless))
    assert endless.given == TURN_MARKERS
    most = 0
    for _ in range(20):
        before = len(lab.intake.markers)
        lab.loop.call_later(0.0, lab.loop.stop)
        lab.loop.run()
        most = max(most, len(lab.intake.markers) - before)
    assert 0 < most <= TURN_MARKERS
    lab.open()


def test_trigger_set_logs_a_bounded_number_of_changes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who makes a state change all the time fills no log; losses add up until the next line."""
    lines: list[dict[str, Any]] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(watched_trigger.log, level, lambda event, **fields: lines.append(fields))
    watch = Flapping()
    lab.open(ready(watch))
    for number in range(100):
        watch.degraded, watch.lost = (None if number % 2 else "a directory"), number
        lab.triggers.check()
    assert len(lines) == watched_trigger.LINES_PER_MINUTE // 2
    assert lab.ledger.lost() == {str(id(watch)): 99}
