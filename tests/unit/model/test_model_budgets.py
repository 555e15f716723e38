"""The sliding windows of the budgets: what they hold, what they forget, and when they have room again."""

from __future__ import annotations

import msgspec
import pytest

from collector.model.budgets import (
    MAX_SPENT,
    Budgets,
    CountBudget,
    OverBudget,
    SlidingWindow,
    Spent,
    StormSettings,
    TotalBudget,
)
from collector.model.owners import Owners

ONE = StormSettings(
    per_executable=CountBudget(count=2, window_s=60.0),
    per_uid=CountBudget(count=3, window_s=100.0),
    total=TotalBudget(count=0, size_bytes=1000, window_s=200.0),
)


def test_window_keeps_the_newest_and_counts_only_those() -> None:
    """With no limit on the count, 4096 are remembered: what the sums say is what is there."""
    window = SlidingWindow(60.0)
    spent = [Spent(at_s=float(at), executable=f"c{at}", owner=f"uid {at}", size_bytes=at) for at in range(MAX_SPENT)]
    for one in spent:
        window.add(one)
    assert (len(window.spent), window.spent[0]) == (MAX_SPENT, spent[0])
    window.add(Spent(at_s=1e4, executable="new", owner="uid 1", size_bytes=5))
    assert (len(window.spent), window.spent[0]) == (MAX_SPENT, spent[1])
    assert (window.by_owner["uid 0"], window.by_owner["uid 1"], window.sizes["uid 1"]) == (0, 2, 6)
    assert ("uid 0", "c0") not in window.by_executable


def test_window_ends_exactly_after_its_length() -> None:
    """What was spent 60 s ago is within it no more, and 59 s ago still is; bytes leave with their incident."""
    window = SlidingWindow(60.0)
    for at_s in (0.0, 1.0):
        window.add(Spent(at_s=at_s, executable="c", owner="root", size_bytes=7))
    window.forget(60.0)
    assert (len(window.spent), window.by_owner["root"], window.sizes["root"]) == (1, 1, 7)
    window.forget(61.0)
    assert not any((window.spent, window.by_owner, window.by_executable, window.sizes))


def test_budgets_have_room_again_when_the_oldest_leaves_the_first_window() -> None:
    """The oldest, not the next one, of the shortest window that will end; what has ended already says nothing."""
    budgets = Budgets(ONE)
    assert budgets.next_room_s(5.0) == 5.0, "nothing is spent"
    for at_s in (10.0, 25.0):
        budgets.spend("c", "root", at_s)
    assert budgets.next_room_s(30.0) == 70.0
    assert budgets.next_room_s(70.0) == 110.0, "a window that ends now has room now"


def test_budgets_restore_what_was_spent_beyond_them_by_itself() -> None:
    """After a restart, and a reload, a crash loop has neither its full incidents nor its others once more."""
    beyond = OverBudget(pipeline="brief", per_executable=CountBudget(count=1, window_s=300.0))
    budgets = Budgets(msgspec.structs.replace(ONE, over_budget=beyond))
    spent = [Spent(at_s=0.0, executable="c", owner="root", over_budget=number == 0, case=number) for number in range(3)]
    budgets.restore(spent, Owners())
    budgets.configure(msgspec.structs.replace(ONE, over_budget=beyond))
    assert budgets.exceeded("c", "root", 1.0) is not None
    assert not budgets.has_room_beyond("c", "root", 1.0)
    budgets.refund(1)
    assert budgets.exceeded("c", "root", 1.0) is None, "two in full, one given back"
    budgets.refund(0)
    assert budgets.has_room_beyond("c", "root", 1.0)


def test_budgets_take_back_only_what_their_windows_still_hold() -> None:
    """What gives way long after it was admitted has left the shorter windows, and costs the longer ones nothing."""
    budgets = Budgets(ONE)
    spent = budgets.spend("c", "root", 0.0)
    for _ in range(2):
        budgets.spend("d", "root", 50.0)
    assert budgets.exceeded("e", "root", 60.0) is not None, "three of one user within 100 s"
    budgets.give_back(spent)
    assert budgets.exceeded("e", "root", 60.0) is None
    budgets.give_back(spent)
    assert budgets.exceeded("d", "root", 60.0) is not None, "those of another program stay"


@pytest.mark.parametrize("wider", [True, False])
def test_budgets_keep_what_is_spent_when_they_are_reconfigured(wider: bool) -> None:
    """A reload resets nothing, as far back as the longest window reached."""
    budgets = Budgets(ONE)
    budgets.restore([Spent(at_s=at_s, executable="c", uid=0) for at_s in (0.0, 80.0)], Owners())
    assert budgets.exceeded("c", "root", 100.0) is None
    length_s = 150.0 if wider else 10.0
    budgets.configure(StormSettings(per_executable=CountBudget(count=2, window_s=length_s)))
    assert (budgets.exceeded("c", "root", 100.0) is not None) is wider


@pytest.mark.parametrize("known", ["paths", "names", "both"])
def test_budgets_count_a_program_once_whether_its_path_or_only_its_name_is_known(known: str) -> None:
    """Of one crash loop some are seen first by their core, which has the name; another program has its own budget."""
    path, name = "/opt/engine-of-orders (uid 7)", "engine-of-order (uid 7)"
    spent = {"paths": (path, path), "names": (name, name), "both": (name, path)}[known]
    budgets = Budgets(ONE)
    for executable in spent:
        budgets.spend(executable, "uid 7", 0.0)
    for executable in (path, name):
        excess = budgets.exceeded(executable, "uid 7", 1.0)
        assert excess is not None
        assert excess.reason.startswith(f"2 incidents of {executable} ")
    assert budgets.exceeded("/opt/other (uid 7)", "uid 7", 1.0) is None
    if known == "paths":
        assert budgets.exceeded("/usr/lib/engine-of-orders (uid 7)", "uid 7", 1.0) is None, "another of that name"
