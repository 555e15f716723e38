"""Whose bulk is copied next."""

from __future__ import annotations

from collector.runner.bulk_turns import BulkTurns


def order_of(turns: BulkTurns, incidents: list[str]) -> list[str]:
    """Return the incidents as they get their turns, until none waits; one that goes on beside another ends first."""
    left, order = list(incidents), []
    while left:
        now = [one for one in left if turns.is_its(one)]
        beside = [one for one in now if turns.is_beside(one)]
        assert len(now) == 1 + len(beside)
        first = (beside or now)[0]
        turns.leave(first)
        left.remove(first)
        order.append(first)
    return order


def test_turns_put_nobody_behind_the_many_incidents_of_another() -> None:
    """Root's bulk goes on at once whoever came before, and a third user's after at most one of the flood's."""
    turns = BulkTurns()
    flood = [f"flood {number}" for number in range(20)]
    for one in flood:
        turns.enter(one, "uid 65534")
    assert turns.is_its("flood 0")
    turns.enter("third", "uid 1000")
    turns.enter("root", "root")
    assert order_of(turns, [*flood, "third", "root"]) == ["root", "flood 0", "third", *flood[1:]]


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


def test_turns_let_roots_bulk_go_on_beside_a_users() -> None:
    """A user's copy may take minutes: root's begins at once, a second user's does not, and root's are one at a time."""
    turns = BulkTurns()
    turns.enter("slow", "uid 65534")
    assert turns.is_its("slow")
    for one, owner in (("third", "uid 1000"), ("root 1", "root"), ("root 2", "root"), ("unit", "unit engine.service")):
        turns.enter(one, owner)
    assert [one for one in ("third", "root 1", "root 2", "unit") if turns.is_its(one)] == ["root 1"]
    assert [turns.is_beside(one) for one in ("slow", "root 1")] == [False, True]
    turns.leave("root 1")
    assert [one for one in ("third", "root 2", "unit") if turns.is_its(one)] == ["root 2"]
    turns.leave("slow")
    assert [one for one in ("third", "root 2", "unit") if turns.is_its(one)] == ["root 2", "unit"]
