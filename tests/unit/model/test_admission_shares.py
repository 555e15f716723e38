"""Nobody pays for another: who gives way in the budgets, the queue, the places to run and what is remembered."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from collector.model.admission import Admission
from collector.model.budgets import CountBudget, Spent, StormSettings, TotalBudget
from collector.model.case import Case, Fate
from collector.model.identity import LONGEST_DUMP_S
from collector.model.marker import SYSTEM_UNIT, CoreRef, Marker, MarkerKind, ProcessRef
from collector.model.owners import Owners, SubordinateUids
from collector.model.queue import MAX_RUNNING
from collector.model.recent import MAX_RECENT
from collector.model.ruling import Ruling

ROOT, ATTACKER, ACCOMPLICE, THIRD = 0, 65534, 1000, 2000
ENGINE = "engine.service"
USERS = Owners(subordinate=(SubordinateUids(first=100_000, count=65_536, uid=ACCOMPLICE),), units=frozenset({ENGINE}))
SHIPPED = StormSettings()
ROOMY = StormSettings(
    coalesce_s=0.0,
    per_executable=CountBudget(count=1_000_000),
    per_uid=CountBudget(count=1_000_000),
    total=TotalBudget(count=1_000_000, size_bytes=1 << 60),
)


class Office:
    """An admission that is offered crashes of many users, each of a process of its own."""

    def __init__(self, storm: StormSettings = SHIPPED) -> None:
        self.admission = Admission(storm, owners=USERS)
        self.number = 0
        self.fates: dict[int, Fate] = {}
        self.displaced: Counter[str] = Counter()

    def crash(self, uid: int | None, name: str = "engine", *, now_s: float = 0.0, unit: str | None = None) -> Ruling:
        process = ProcessRef(pid=self.number + 1000, start_time_ticks=self.number)
        attributes = {"core_dumped": "no"} | ({SYSTEM_UNIT: unit} if unit else {})
        marker = Marker(
            kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=process, comm=name, uid=uid, attributes=attributes
        )
        return self.offer(marker, now_s)

    def offer(self, marker: Marker, now_s: float = 0.0) -> Ruling:
        self.number += 1
        ruling = self.admission.offer(self.number, marker, pipeline="crash", now_s=now_s)
        self.fates[self.number] = ruling.fate
        for gone in ruling.displaced:
            self.fates[gone.number] = Fate.SUPPRESSED
            self.displaced[gone.owner] += 1
        return ruling

    def begin_all(self, now_s: float = 0.0) -> list[Case]:
        return list(iter(lambda: self.admission.next(now_s), None))

    def run_all(self, now_s: float = 0.0, size_bytes: int = 1 << 20) -> None:
        for case in self.begin_all(now_s):
            self.fates[case.id] = Fate.COLLECTED
            self.admission.finished(case, incident=f"i{case.id}", size_bytes=size_bytes)


def event() -> Marker:
    attributes = {"event": "oops"}
    return Marker(kind=MarkerKind.KERNEL_LOG, trigger="kernel", at_s=0.0, reason="oops", attributes=attributes)


def core(inode: int, pid: int, uid: int) -> Marker:
    reference = CoreRef(path="/crash/core", device=1, inode=inode, size_bytes=1, mtime_ns=1, uid=uid)
    return Marker(
        kind=MarkerKind.CORE_FILE, trigger="cores", at_s=0.0, process=ProcessRef(pid=pid), comm="engine", uid=uid,
        core=reference,
    )  # fmt: skip


@pytest.mark.parametrize("victim", [ROOT, THIRD, "unit", "machine"])
@pytest.mark.parametrize("attackers", [(ATTACKER,), (ATTACKER, ACCOMPLICE, 100_007), (ATTACKER, None)])
def test_flood_costs_nobody_else_a_crash_at_the_shipped_budgets(
    victim: int | str, attackers: tuple[int | None, ...]
) -> None:
    """Users crash without a pause for three hours; whoever stays within his own budget has each crash collected."""
    office = Office()
    rulings: list[tuple[int, Ruling]] = []
    for tick in range(3 * 3600 // 15):
        now_s = 15.0 * tick
        for attacker in attackers:
            for number in range(3):
                office.crash(attacker, f"flood{tick}-{number}", now_s=now_s)
        if tick % 5 == 0:  # every 75 s, of two programs
            if victim == "machine":
                rulings += [(office.number + 1, office.offer(event(), now_s))] if tick % 10 == 0 else []
            else:
                unit = ENGINE if victim == "unit" else None
                uid = victim if isinstance(victim, int) else ATTACKER
                ruling = office.crash(uid, f"engine{tick % 2}", now_s=now_s, unit=unit)
                rulings.append((office.number, ruling))
        office.run_all(now_s)
    assert len(rulings) >= 72
    assert {ruling.reason for _, ruling in rulings} == {""}
    assert {office.fates[number] for number, _ in rulings} == {Fate.COLLECTED}


def test_flood_of_bytes_costs_nobody_else_his_share() -> None:
    """One huge incident is over its user's share before anybody knows; the others have theirs."""
    office = Office(msgspec.structs.replace(SHIPPED, total=TotalBudget(size_bytes=1000)))
    for number in range(5):
        office.crash(ATTACKER, f"flood{number}")
    office.run_all(size_bytes=100_000)
    ruling = office.crash(ATTACKER, "more", now_s=1.0)
    assert (ruling.fate, ruling.limit, ruling.owner) == (Fate.HELD, "storm.total", "uid 65534")
    assert [office.crash(uid, now_s=1.0).fate for uid in (ROOT, THIRD)] == [Fate.QUEUED] * 2


def test_budget_of_a_user_is_that_of_his_subordinate_uids() -> None:
    """65,536 uids do not make 65,536 users."""
    office = Office()
    fates = Counter(office.crash(100_000 + number, f"c{number}").fate for number in range(100))
    assert fates[Fate.QUEUED] == SHIPPED.per_uid.count
    assert office.crash(ACCOMPLICE).limit == "storm.per_uid"


def test_budget_counts_what_was_spent_before_a_restart_for_its_owner() -> None:
    """What his subordinate uids spent is his."""
    office = Office()
    spent = [Spent(at_s=-1.0, executable=f"c{number}", uid=100_000 + number) for number in range(10)]
    office.admission.restore(spent)
    assert office.crash(ACCOMPLICE).limit == "storm.per_uid"
    assert office.crash(ATTACKER).fate is Fate.QUEUED


def test_unit_has_a_share_of_its_own_only_if_the_kernel_or_root_says_so() -> None:
    """A user's text is not believed, and the engine's own user cannot spend the engine's budget."""
    office = Office()
    for _ in range(20):
        office.crash(THIRD, "engine")
        claim = Marker(
            kind=MarkerKind.NOTIFICATION, trigger="told", at_s=0.0, uid=THIRD, unit=ENGINE, comm=f"c{office.number}",
            attributes={"UNIT": ENGINE},
        )  # fmt: skip
        assert office.offer(claim).owner == "uid 2000"
    ruling = office.crash(THIRD, "engine", unit=ENGINE)
    assert (ruling.fate, ruling.owner) == (Fate.QUEUED, "unit engine.service")


def test_queue_that_is_full_takes_from_the_one_who_has_most() -> None:
    """Whoever has one place keeps it, and the flood keeps its first and its newest."""
    office = Office(msgspec.structs.replace(ROOMY, queue=8))
    mine = [office.crash(uid) and office.number for uid in (THIRD, ROOT)]
    flood = [office.crash(ATTACKER, f"c{number}") and office.number for number in range(1000)]
    assert [office.fates[number] for number in mine] == [Fate.QUEUED] * 2
    assert set(office.displaced) == {"uid 65534"}
    assert [office.fates[flood[0]], office.fates[flood[-1]]] == [Fate.QUEUED] * 2
    late = office.crash(ACCOMPLICE)
    assert late.fate is Fate.QUEUED
    assert [(gone.limit, gone.owner) for gone in late.displaced] == [("storm.queue", "uid 65534")]


def test_held_cases_take_from_the_one_who_has_most() -> None:
    """A thousand names of one user leave the held crash of another where it is, and it is collected later."""
    once = CountBudget(count=1, window_s=60.0)
    office = Office(msgspec.structs.replace(ROOMY, per_executable=once, per_uid=once))
    for uid in (THIRD, ATTACKER, THIRD):
        last = office.crash(uid)
    assert (last.fate, last.limit) == (Fate.HELD, "storm.per_executable")
    held = office.number
    gone = [one for number in range(1000) for one in office.crash(ATTACKER, f"c{number}", now_s=1.0).displaced]
    assert {(one.owner, one.limit) for one in gone} == {("uid 65534", "held cases")}
    office.run_all(1.0)
    office.run_all(61.0)
    assert office.fates[held] is Fate.COLLECTED


def test_held_crash_says_so_in_its_manifest() -> None:
    """Its marker names the budget."""
    office = Office(msgspec.structs.replace(ROOMY, per_uid=CountBudget(count=1)))
    office.crash(THIRD)
    ruling = office.crash(THIRD, "other")
    assert ruling.case is not None
    assert ruling.case.marker.attributes["held"] == "1 incident of uid 2000 in 600 s"


def test_places_to_run_are_not_all_one_users() -> None:
    """Dozens of incidents that wait for their cores keep nobody else's waiting."""
    office = Office(ROOMY)
    for number in range(2 * MAX_RUNNING):
        office.crash(ATTACKER, f"c{number}")
    assert len(office.begin_all()) == MAX_RUNNING // 4
    assert office.admission.due_s(0.0) is None
    mine = [office.crash(uid).case for uid in (THIRD, ROOT)]
    assert office.admission.due_s(0.0) == 0.0
    assert office.begin_all() == mine[::-1]


def test_queue_goes_by_turns() -> None:
    """Root's first; then whoever has fewest running."""
    office = Office(ROOMY)
    for uid in (ATTACKER, ATTACKER, ATTACKER, THIRD, ACCOMPLICE, THIRD, ROOT):
        office.crash(uid, f"c{office.number}")
    assert [case.id for case in office.begin_all()] == [7, 1, 4, 5, 2, 6, 3]
    for uid in (ATTACKER, THIRD):
        office.crash(uid, f"c{office.number}")
    office = Office(ROOMY)
    order: list[int] = []
    for uid in (ATTACKER, ATTACKER, THIRD, THIRD):
        office.crash(uid, f"c{office.number}")
    while (case := office.admission.next(0.0)) is not None:  # one at a time
        order.append(case.id)
        office.admission.finished(case, incident=None, size_bytes=0)
    assert order == [1, 3, 2, 4]


def test_recent_crash_of_one_user_is_not_forgotten_for_the_flood_of_another() -> None:
    """Its core arrives after so many other crashes that the table of keys has been full several times."""
    office = Office(ROOMY)
    first = office.crash(ROOT)
    for number in range(2 * MAX_RECENT):
        office.crash(ATTACKER, f"c{number}", now_s=1.0)
    ruling = office.offer(core(1, pid=1000, uid=ROOT), LONGEST_DUMP_S - 1)
    assert (ruling.fate, ruling.case) == (Fate.JOINED, first.case)


def test_case_that_is_over_keeps_little_and_still_knows_its_own() -> None:
    """Sixteen fat markers shrink to what tells one crash from another."""
    office = Office(ROOMY)
    fat = {f"KEY{number}": "x" * 1000 for number in range(10)}
    marker = Marker(
        kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=ProcessRef(pid=7, start_time_ticks=9), uid=ROOT,
        comm="engine", exe="/" + "x" * 4000, reason="r" * 4000, attributes=fat | {"core_dumped": "no"},
    )  # fmt: skip
    case = office.offer(marker).case
    assert case is not None
    office.offer(marker)
    office.run_all()
    assert len(msgspec.json.encode(case.markers)) < 1000
    ruling = office.offer(marker, 500.0)
    assert (ruling.fate, ruling.case, case.incident) == (Fate.JOINED, case, "i1")


def test_case_is_paid_by_whose_it_is_once_that_is_known() -> None:
    """The kernel's line about a task that is gone names no user; the exit that follows does."""
    office = Office(msgspec.structs.replace(ROOMY, per_executable=CountBudget(count=1)))
    line = Marker(
        kind=MarkerKind.KERNEL_LOG, trigger="kernel", at_s=0.0, process=ProcessRef(pid=7), thread=7, doubtful=True,
        comm="engine", attributes={"event": "segfault", "core_dumped": "no"},
    )  # fmt: skip
    exit_of_root = Marker(
        kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=ProcessRef(pid=7, start_time_ticks=9), uid=ROOT,
        comm="engine",
    )  # fmt: skip
    assert office.offer(msgspec.structs.replace(line, process=ProcessRef(pid=8), thread=8)).owner.startswith("unknown/")
    office.run_all()
    held = office.offer(line)
    assert held.fate is Fate.HELD
    ruling = office.offer(exit_of_root)
    assert (ruling.fate, ruling.owner) == (Fate.JOINED, "root")
    assert office.admission.held == 0, "root's own budget has room"
    office.run_all(10.0)
    assert office.crash(ROOT, "engine", now_s=11.0).limit == "storm.per_executable"


def test_small_total_leaves_something_for_everybody() -> None:
    """Of three incidents an hour, a user gets one, and root two."""
    three = msgspec.structs.replace(SHIPPED, total=TotalBudget(count=3))
    for uid, count in ((THIRD, 1), (ROOT, 2)):
        office = Office(three)
        fates = Counter(office.crash(uid, f"c{number}").fate for number in range(5))
        assert fates[Fate.QUEUED] == count


def test_held_crash_is_released_into_a_queue_that_another_keeps_full() -> None:
    """Whoever has nothing in the queue does not wait until a flood leaves him a place."""
    office = Office(msgspec.structs.replace(ROOMY, queue=4, per_executable=CountBudget(count=1, window_s=60.0)))
    office.crash(THIRD)
    office.run_all()
    assert office.crash(THIRD).fate is Fate.HELD
    for number in range(MAX_RUNNING):
        office.crash(ATTACKER, f"c{number}", now_s=1.0)
        office.begin_all(1.0)
    assert office.admission.queued == 4
    assert [case.owner for case in office.begin_all(61.0)] == ["uid 2000"]


def test_case_that_is_resumed_does_not_wait_for_its_own_spending() -> None:
    """It was admitted before the restart, with the last place in its budget; it is not held for it now."""
    office = Office()
    executable = f"engine (uid {ROOT})"
    office.admission.restore(
        Spent(at_s=0.0, executable=executable, uid=0, owner="root", case=number) for number in range(1, 6)
    )
    process = ProcessRef(pid=7, start_time_ticks=7)
    attributes = {"core_dumped": "no"}
    marker = Marker(
        kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=process, comm="engine", uid=0, attributes=attributes
    )
    assert office.admission.resume(5, [marker], pipeline="crash", now_s=1.0).fate is Fate.QUEUED
    assert office.crash(ROOT, now_s=2.0).fate is Fate.HELD


@pytest.mark.parametrize(("uid", "fate"), [(ROOT, Fate.QUEUED), (ATTACKER, Fate.HELD)])
def test_incident_that_the_disk_refused_costs_root_nothing(uid: int, fate: Fate) -> None:
    """Who filled it must not spend root's budget with it; who may fill it himself does not get endless tries."""
    office = Office()
    for _ in range(5):
        office.crash(uid)
        for case in office.begin_all():
            office.admission.finished(case, incident=None, size_bytes=0)
    assert office.crash(uid).fate is fate


def test_crash_that_gives_way_costs_its_user_no_budget() -> None:
    """What is displaced from the queue was never collected."""
    office = Office(msgspec.structs.replace(ROOMY, queue=1, per_executable=CountBudget(count=2)))
    rulings = [office.crash(THIRD) for _ in range(4)]
    assert [ruling.fate for ruling in rulings] == [Fate.QUEUED] * 4
    assert office.displaced == {"uid 2000": 3}


def test_held_crash_is_released_when_the_queue_has_a_place() -> None:
    """Whoever has something in the queue waits until it is not full, and not until he has nothing in it."""
    office = Office(msgspec.structs.replace(ROOMY, queue=2, per_executable=CountBudget(count=1, window_s=60.0)))
    office.crash(THIRD)
    office.run_all()
    assert office.crash(THIRD, now_s=1.0).fate is Fate.HELD
    for number in range(2):  # of each of these a core is awaited for half a second
        process = ProcessRef(pid=number + 7, start_time_ticks=number)
        dying = Marker(
            kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=process, comm=f"c{number}", uid=THIRD, signal=11
        )
        office.offer(dying, 60.0)
    assert office.admission.next(60.0) is None
    assert (office.admission.queued, office.admission.held) == (2, 1)
    begun = [office.admission.next(60.5), office.admission.next(60.5), office.admission.next(60.5)]
    assert [case.executable for case in begun if case] == ["c0 (uid 2000)", "c1 (uid 2000)", "engine (uid 2000)"]


def test_held_crash_of_who_has_something_in_a_queue_with_room_is_released() -> None:
    """His case that waits for its core keeps no other one of his waiting."""
    office = Office(msgspec.structs.replace(ROOMY, queue=2, per_executable=CountBudget(count=1, window_s=60.0)))
    office.crash(THIRD)
    office.run_all()
    office.crash(THIRD, now_s=1.0)
    dying = Marker(
        kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=ProcessRef(pid=7, start_time_ticks=7), comm="other",
        uid=THIRD, signal=11,
    )  # fmt: skip
    office.offer(dying, 60.0)
    assert [case.executable for case in office.begin_all(60.0)] == ["engine (uid 2000)"]
