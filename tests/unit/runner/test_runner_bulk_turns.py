"""Whose bulk is copied next."""

from __future__ import annotations

from collector.runner.bulk_turns import BulkTurns


def order_of(turns: BulkTurns, incidents: list[str]) -> list[str]:
    """Return the incidents as they get their turns, until none waits."""
    left, order = list(incidents), []
    while left:
        now = next(one for one in left if turns.is_its(one))
        assert [one for one in left if turns.is_its(one)] == [now]
        turns.leave(now)
        left.remove(now)
        order.append(now)
    return order


def test_turns_put_nobody_behind_the_many_incidents_of_another() -> None:
    """Root's bulk is next whoever came before, and a third user's after at most one of the flood's."""
    turns = BulkTurns()
    flood = [f"flood {number}" for number in range(20)]
    for one in flood:
        turns.enter(one, "uid 65534")
    assert turns.is_its("flood 0")
    turns.enter("third", "uid 1000")
    turns.enter("root", "root")
    assert order_of(turns, [*flood, "third", "root"]) == ["flood 0", "root", "third", *flood[1:]]


def test_turns_alternate_between_users() -> None:
    """Whoever comes back at once does not overtake one who waits."""
    turns = BulkTurns()
    for one in ("a1", "a2", "b1", "b2"):
        turns.enter(one, f"uid {one[0]}")
    assert order_of(turns, ["a1", "a2", "b1", "b2"]) == ["a1", "b1", "a2", "b2"]


def test_turns_forget_an_incident_that_gives_up_waiting() -> None:
    """It leaves without a turn, and the one whose turn it is goes on."""
    turns = BulkTurns()
    turns.enter("a", "root")
    turns.enter("b", "root")
    assert turns.is_its("a")
    turns.leave("b")
    assert turns.is_its("a")
    turns.leave("a")
    turns.enter("c", "root")
    assert turns.is_its("c")
