"""Fair shares: who may take more, who gives way, and who an owner is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from collector.model.owners import Owners, SubordinateUids, is_protected
from collector.model.shares import FairChoice, FairTable, PerMinute, gives_way, has_room

USERS = Owners(
    subordinate=(
        SubordinateUids(first=100_000, count=65_536, uid=1000),
        SubordinateUids(first=1_000_000, count=1 << 30, uid=0),
    ),
    units=frozenset({"engine.service"}),
)


def take_all(owner: str, used: Counter[str], limit: int) -> int:
    """Let *owner* take what he may; return how much that is."""
    before = used[owner]
    while has_room(used, owner, limit):
        used[owner] += 1
    return used[owner] - before


def test_share_leaves_something_for_whoever_comes_next() -> None:
    """Each may take while he has less than half of what is left; root and the units have a quarter of their own."""
    used: Counter[str] = Counter()
    assert [take_all(f"uid {uid}", used, 100) for uid in range(1000, 1005)] == [25, 17, 11, 8, 5]
    assert take_all("root", used, 100) >= 100 // 8
    assert take_all("unit engine.service", used, 100) > 0
    assert sum(used.values()) <= 100


def test_share_ends_where_as_much_is_left_as_was_taken() -> None:
    """Root gets half of everything; one lane half of what its owner may still have."""
    assert has_room({"root": 49}, "root", 100)
    assert not has_room({"root": 50}, "root", 100)
    assert has_room({"unknown/a": 14}, "unknown/a", 100)
    assert not has_room({"unknown/a": 15}, "unknown/a", 100)
    assert not has_room({"unknown/a": 16}, "unknown/a", 100)
    assert has_room({"root/engine": 24}, "root/engine", 100)
    assert not has_room({"root/engine": 25}, "root/engine", 100)
    assert has_room({"root/engine": 25}, "root/other", 100)


def test_share_of_unknown_users_is_one_and_shared_by_name() -> None:
    """Many names do not make many users; one name does not take everything from the others."""
    used: Counter[str] = Counter()
    first = take_all("unknown/a", used, 100)
    assert first < take_all("uid 1", Counter(), 100)
    assert take_all("unknown/b", used, 100) > 0
    for name in range(1000):
        take_all(f"unknown/{name}", used, 100)
    assert sum(used.values()) <= 26


@given(st.lists(st.sampled_from(["root", "unit e", "uid 1", "uid 2", "uid 3", "unknown/a", "unknown/b"]), max_size=400))
def test_share_never_exceeds_the_limit_nor_uses_the_reserve_of_root(asking: list[str]) -> None:
    """Whatever the order, all stay below the limit, and ordinary users below three quarters of it."""
    used: Counter[str] = Counter()
    for owner in asking:
        if has_room(used, owner, 40):
            used[owner] += 1
    assert sum(used.values()) <= 40
    assert sum(taken for owner, taken in used.items() if owner not in {"root", "unit e"}) <= 30


def test_owner_who_holds_most_gives_way() -> None:
    """Root does so only beyond its quarter."""
    assert gives_way({"uid 1": 3, "uid 2": 4, "root": 9}, 40) == "uid 2"
    assert gives_way({"uid 1": 3, "root": 14}, 40) == "root"
    assert gives_way({"unknown/a": 2, "unknown/b": 3, "uid 1": 4}, 40) == "unknown/b"


def test_fair_table_drops_the_oldest_of_the_one_who_holds_most() -> None:
    """A flood displaces itself."""
    table: FairTable[str, int] = FairTable(8)
    table.put("engine", 0, "uid 1")
    displaced = [table.put(f"flood {number}", number, "uid 2") for number in range(100)]
    assert (table.get("engine"), table.get("nobody"), table.pop("nobody")) == (0, None, None)
    assert len(table) == 8
    assert next(gone for gone in displaced if gone is not None) == ("flood 0", 0)
    assert "flood 99" in table


def test_fair_choice_keeps_the_best_of_everybody() -> None:
    """A thousand newer files of one user leave room for another's."""
    choice: FairChoice[int] = FairChoice(10, rank=float)
    choice.add(0, "uid 1")
    for number in range(1, 1001):
        choice.add(number, "uid 2")
    assert choice.chosen() == [*range(1000, 991, -1), 0]
    assert choice.left_out == {"uid 2": 991}
    assert len(choice) == 10


def test_owner_of_a_subordinate_uid_is_its_user() -> None:
    """Whoever has 65,536 uids is one user; people whose numbers a directory server has chosen are not."""
    assert USERS.of(100_007) == USERS.of(1000) == "uid 1000"
    assert USERS.of(165_535) == "uid 1000"
    assert USERS.of(165_536) == "uid 165536"
    assert USERS.of(1_234_400_001) == "uid 1234400001"
    assert USERS.of(1_000_000) == USERS.of(1_065_535) != USERS.of(1_065_536), (
        "a container under root's subordinate uids"
    )
    assert USERS.of(0) == "root"
    assert USERS.of(1000, unit="engine.service") == "unit engine.service"
    assert USERS.of(1000, unit="other.service") == "uid 1000"
    assert USERS.of(None, lane="a") == "unknown/a"
    assert [is_protected(owner) for owner in ("root", "unit e", "uid 0", "unknown/unit e")] == [
        True,
        True,
        False,
        False,
    ]


def test_table_has_a_place_for_whoever_does_not_hold_most() -> None:
    """Who holds most would only displace what is his own."""
    table: FairTable[int, None] = FairTable(8)
    for number in range(8):
        assert table.has_place("uid 1")
        table.put(number, None, "uid 1")
    assert not table.has_place("uid 1")
    assert table.has_place("uid 2")
    assert table.has_place("root")


def test_share_of_a_minute_is_the_same_in_each() -> None:
    """What one has used up he has again 60 s after the minute began, and what another may take is his own."""
    lines = PerMinute(16)
    taken = [lines.take("uid 1", now_s) for now_s in (100.0, 101.0, 110.0, 120.0, 159.0, 159.9)]
    assert taken == [True] * 4 + [False] * 2
    assert lines.take("uid 2", 159.9)
    assert [lines.take("uid 1", now_s) for now_s in (160.0, 219.9)] == [True] * 2
    assert [lines.take("uid 1", 219.9) for _ in range(3)] == [True, True, False]
    assert lines.take("uid 1", 220.0)
