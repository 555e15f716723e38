"""A queue that is drained begins what it has, and nothing more."""

from __future__ import annotations

from collector.model.case import Case
from collector.model.marker import Marker, MarkerKind
from collector.model.owners import ROOT
from collector.model.queue import CaseQueue


def case(number: int) -> Case:
    marker = Marker(kind=MarkerKind.EXIT, trigger="exits", at_s=0.0)
    return Case(id=number, pipeline="crash", opened_s=0, ready_s=0, executable="a", owner=ROOT, markers=[marker])


def test_queue_begins_only_what_it_had_when_it_was_drained() -> None:
    queue = CaseQueue()
    queue.put(case(1))
    queue.drain(on=True)
    queue.put(case(2))
    queue.drain(on=True)  # somebody waits for it a second time
    taken = queue.take(1.0)
    assert taken is not None
    assert (taken.id, queue.take(1.0), queue.due_s(), queue.draining) == (1, None, None, 0)


def test_queue_begins_everything_once_the_drain_is_over() -> None:
    queue = CaseQueue()
    queue.drain(on=True)
    queue.put(case(2))
    queue.drain(on=False)
    taken = queue.take(1.0)
    assert taken is not None
    assert taken.id == 2
