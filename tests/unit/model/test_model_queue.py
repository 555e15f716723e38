"""The queue: who comes next, who gives way, and whose turn it is."""

from __future__ import annotations

import pytest

from collector.model.case import Case
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.model.queue import MAX_RUNNING, CaseQueue

A, B, C = "uid 1000", "uid 1001", "uid 1002"


def case(number: int, owner: str, *, ready_s: float = 0.0, is_by_hand: bool = False) -> Case:
    kind = MarkerKind.MANUAL if is_by_hand else MarkerKind.EXIT
    marker = Marker(kind=kind, trigger="t", at_s=0.0, process=ProcessRef(pid=4_000_077))
    return Case(
        id=number, pipeline="crash", opened_s=0.0, ready_s=ready_s, executable="e", owner=owner, markers=[marker]
    )


def queue_of(*owners: str) -> CaseQueue:
    """Return a queue of one case for each of the owners, with the numbers 1, 2, 3 ..."""
    queue = CaseQueue()
    for number, owner in enumerate(owners, 1):
        queue.put(case(number, owner))
    return queue


def turns(queue: CaseQueue) -> list[int]:
    """Run one case after the other to its end; return their numbers."""
    order = []
    while (one := queue.take(0.0)) is not None:
        queue.finished(one)
        order.append(one.id)
    return order


@pytest.mark.parametrize(
    ("owners", "limit", "gone"),
    [
        ((A, A, A), 3, None),
        ((A, A, A), 2, 2),  # the first and the newest stay
        ((A, A, A, A), 3, 3),
        ((A, B), 1, 1),
        ((A, B, B), 2, 2),
        ((A, A, B), 2, 1),
    ],
)
def test_queue_that_is_too_long_loses_the_last_but_one_of_who_has_most(
    owners: tuple[str, ...], limit: int, gone: int | None
) -> None:
    """As many as the limit may wait."""
    queue = queue_of(*owners)
    last = queue.displace(limit)
    assert (last and last.id) == gone
    assert len(queue) == len(owners) - (gone is not None)
    assert gone not in {one.id for one in queue}


def test_queue_does_not_count_who_asks_by_hand() -> None:
    """Neither does a run by hand displace a crash, nor is it displaced."""
    queue = queue_of(A, A)
    queue.put(case(3, A, is_by_hand=True))
    assert queue.displace(2) is None
    last = queue.displace(1)
    assert last is not None
    assert last.id == 1


def test_queue_begins_what_is_ready() -> None:
    """At the very time, and not before; the first time at which something is tells when to look again."""
    queue = CaseQueue()
    assert (queue.due_s(), queue.take(0.0)) == (None, None)
    for number, ready_s in ((1, 7.0), (2, 5.0)):
        queue.put(case(number, A, ready_s=ready_s))
    assert (queue.due_s(), queue.take(4.9)) == (5.0, None)
    taken = queue.take(5.0)
    assert taken is not None
    assert (taken.id, queue.due_s(), queue.users, len(queue)) == (2, 7.0, {A}, 1)


def test_queue_takes_who_asks_by_hand_first_then_root_then_by_turns() -> None:
    """Whoever has fewest running, and of those the one whose turn was longest ago."""
    queue = queue_of(A, A, A, B, "root", C, "unit e", B)
    queue.put(case(9, C, is_by_hand=True))
    order = [one.id for one in iter(lambda: queue.take(0.0), None)]
    assert order == [9, 5, 7, 1, 4, 6, 2, 8, 3]
    assert turns(queue_of(A, A, A, B, B, C)) == [1, 4, 6, 2, 5, 3]
    assert turns(queue_of("unknown/a", "unknown/b", A)) == [1, 3, 2], "lanes of one owner are one"


def test_queue_remembers_turns_of_those_who_still_have_something_in_it() -> None:
    """Whoever comes back later begins anew: what is remembered is bounded by what waits or runs."""
    queue = queue_of(A, B)
    assert turns(queue) == [1, 2]
    for number, owner in ((3, B), (4, A)):
        queue.put(case(number, owner))
    assert turns(queue) == [3, 4]
    queue = queue_of(A, B, B)
    first = queue.take(0.0)
    second = queue.take(0.0)
    assert first is not None
    assert second is not None
    queue.put(case(4, A))
    queue.finished(second)
    queue.finished(first)
    queue.finished(first)  # once more changes nothing
    assert (turns(queue), queue.running) == ([4, 3], [])


def test_queue_has_a_place_for_who_asks_by_hand_when_all_his_are_taken() -> None:
    """Who has a quarter of the places gets another one when a case of his ends."""
    queue = queue_of(*[A] * MAX_RUNNING)
    running = list(iter(lambda: queue.take(0.0), None))
    assert (len(running), queue.due_s()) == (MAX_RUNNING // 4, None)
    queue.put(case(99, A, ready_s=3.0, is_by_hand=True))
    assert queue.due_s() == 3.0
    by_hand = queue.take(3.0)
    assert by_hand is not None
    assert by_hand.id == 99
    queue.finished(by_hand)
    assert queue.take(3.0) is None
    queue.finished(running[0])
    assert queue.due_s() == 0.0
