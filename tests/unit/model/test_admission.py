"""Admission: one incident for each crash, a bounded number of them, and the newest of every storm."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector.model.admission import MAX_HELD, SETTLE_S, Admission
from collector.model.budgets import CountBudget, OverBudget, Spent, StormSettings, TotalBudget
from collector.model.case import MAX_MARKERS, Fate
from collector.model.marker import DUMP, HELD_DUMP, CoreRef, Marker, MarkerKind, ProcessRef
from collector.model.own_processes import OwnProcesses
from collector.model.owners import Owners
from collector.model.queue import MAX_RUNNING
from collector.model.ruling import Ruling

FREE = StormSettings(
    coalesce_s=0.0,
    per_executable=CountBudget(count=0, window_s=60.0),
    per_uid=CountBudget(count=0, window_s=60.0),
    total=TotalBudget(count=0, size_bytes=0, window_s=60.0),
)


def core(inode: int, pid: int | None = None, comm: str = "engine", uid: int = 0) -> Marker:
    return Marker(
        kind=MarkerKind.CORE_FILE,
        trigger="cores",
        at_s=0.0,
        comm=comm,
        uid=uid,
        process=ProcessRef(pid=pid) if pid else None,
        core=CoreRef(path=f"/crash/core.{inode}", device=1, inode=inode, size_bytes=1, mtime_ns=1, uid=uid),
    )


def exit_of(pid: int, ticks: int | None = None, **fields: object) -> Marker:
    process = ProcessRef(pid=pid, start_time_ticks=ticks)
    given_fields = {"comm": "engine", "signal": 11, **fields}
    return Marker(kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, process=process, **given_fields)  # type: ignore[arg-type]


def line_of(pid: int) -> Marker:
    return Marker(kind=MarkerKind.KERNEL_LOG, trigger="kernel", at_s=0.0, process=ProcessRef(pid=pid), signal=11)


def dump_of(pid: int, ticks: int, dump: str = HELD_DUMP, **attributes: str) -> Marker:
    process = ProcessRef(pid=pid, start_time_ticks=ticks)
    return Marker(
        kind=MarkerKind.DUMP,
        trigger="held",
        at_s=0.0,
        process=process,
        comm="engine",
        attributes={DUMP: dump, **attributes},
    )


def event(reason: str) -> Marker:
    return Marker(
        kind=MarkerKind.KERNEL_LOG, trigger="kernel", at_s=0.0, reason=reason, attributes={"event": "io_error"}
    )


def displaced(ruling: Ruling) -> list[int]:
    return [gone.number for gone in ruling.displaced]


class Desk:
    """Offers markers with numbers of its own."""

    def __init__(
        self, settings: StormSettings = FREE, own: OwnProcesses | None = None, owners: Owners | None = None
    ) -> None:
        self.admission = Admission(settings, own, owners=owners)
        self.number = 0

    def offer(self, marker: Marker, now_s: float = 0.0) -> Ruling:
        self.number += 1
        return self.admission.offer(self.number, marker, pipeline="crash", now_s=now_s)

    def run(self, now_s: float, size_bytes: int = 1) -> int | None:
        """Run the next case to its end; return its number."""
        case = self.admission.next(now_s)
        if case is None:
            return None
        self.admission.finished(case, incident=f"i{case.id}", size_bytes=size_bytes)
        return case.id


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_admission_joins_the_markers_of_one_crash(order: tuple[int, ...]) -> None:
    """A core, an exit and a kernel log line of one PID are one incident, in whatever order they come."""
    desk = Desk()
    markers = [core(1, pid=7), exit_of(7, ticks=99), line_of(7)]
    rulings = [desk.offer(markers[index], 0.01 * step) for step, index in enumerate(order)]
    assert [ruling.fate for ruling in rulings] == [Fate.QUEUED, Fate.JOINED, Fate.JOINED]
    case = desk.admission.next(0.1)
    assert case is not None
    assert len(case.markers) == 3
    merged = case.marker
    assert merged.core is not None
    assert (merged.signal, merged.uid, merged.process) == (11, 0, ProcessRef(pid=7, start_time_ticks=99))
    assert {merged.trigger, *merged.joined} == {"cores", "exits", "kernel"}
    assert desk.admission.next(9.0) is None


def test_admission_waits_for_the_core_that_an_exit_announces() -> None:
    """The incident begins with the core, or without it once it has settled; nothing else waits."""
    desk = Desk()
    desk.offer(exit_of(7))
    assert desk.admission.next(0.1) is None
    assert desk.admission.due_s(0.1) == SETTLE_S
    desk.offer(core(1, pid=7), 0.2)
    assert desk.run(0.2) == 1
    desk.offer(exit_of(8), 1.0)
    assert desk.run(1.0) is None
    assert desk.run(1.0 + SETTLE_S) == 3
    desk.offer(exit_of(9, attributes={"core_dumped": "no"}), 2.0)
    assert desk.run(2.0) == 4


@pytest.mark.parametrize(
    ("second", "after_s"),
    [
        (exit_of(7, ticks=100), 1.0),  # another start time: the PID was recycled
        (line_of(7), 31.0),  # no start time, and too long ago
        (core(2, pid=7), 1.0),  # a second core
        (core(2, pid=8), 1.0),  # another process
        (core(2, pid=7, uid=65534), 1.0),  # a planted core that names the PID
    ],
)
def test_admission_keeps_two_crashes_apart(second: Marker, after_s: float) -> None:
    """A PID alone proves nothing."""
    desk = Desk()
    first = msgspec.structs.replace(core(1, pid=7), process=ProcessRef(pid=7, start_time_ticks=99))
    desk.offer(first)
    assert desk.offer(second, after_s).fate is Fate.QUEUED


def test_admission_does_not_let_a_planted_core_swallow_the_real_one() -> None:
    """A file of the user nobody comes first and names the dying PID; the real core still gets its incident."""
    desk = Desk()
    desk.offer(core(1, pid=7, uid=65534))
    assert desk.offer(exit_of(7, uid=0), 0.1).fate is Fate.QUEUED
    assert desk.offer(core(2, pid=7), 0.2).fate is Fate.JOINED
    assert [desk.run(1.0), desk.run(1.0), desk.run(1.0)] == [2, 1, None], "root's first"


def test_admission_names_the_incident_to_those_who_come_late() -> None:
    """An archived incident is immutable; the ledger says where the marker belongs. A late core is collected."""
    desk = Desk()
    desk.offer(exit_of(7, attributes={"core_dumped": "no"}))
    desk.run(0.0)
    ruling = desk.offer(line_of(7), 1.0)
    assert ruling.fate is Fate.JOINED
    assert ruling.case is not None
    assert ruling.case.incident == "i1"
    assert desk.offer(core(1, pid=7), 5.0).fate is Fate.QUEUED


def test_admission_gives_each_process_its_own_case() -> None:
    """Three workers of one service that die together are three crashes: their names are no reason to join them."""
    desk = Desk(msgspec.structs.replace(FREE, coalesce_s=5.0))
    fates = [desk.offer(core(inode, pid=inode), inode * 0.01).fate for inode in range(1, 4)]
    fates += [desk.offer(exit_of(pid, ticks=9), 0.1).fate for pid in range(4, 7)]
    assert fates == [Fate.QUEUED] * 6


def test_admission_coalesces_repeated_reports_that_name_no_process() -> None:
    """A kernel that reports one fault in many lines makes one case, with the first and the newest markers."""
    desk = Desk(msgspec.structs.replace(FREE, coalesce_s=5.0))
    lines = [event(f"line {number}") for number in range(100)]
    assert [desk.offer(line, 0.01).fate for line in lines] == [Fate.QUEUED] + [Fate.JOINED] * 99
    case = desk.admission.next(1.5)
    assert case is not None
    assert len(case.markers) == MAX_MARKERS
    assert (case.markers[0], case.markers[-1]) == (lines[0], lines[-1])
    assert desk.offer(event("later"), 5.5).fate is Fate.QUEUED


def test_admission_keeps_the_first_and_the_newest_of_a_storm() -> None:
    """Beyond the budget each new crash displaces the one held before it; the last is collected later."""
    desk = Desk(msgspec.structs.replace(FREE, per_executable=CountBudget(count=2, window_s=60.0)))
    rulings = [desk.offer(core(inode, pid=inode), float(inode)) for inode in range(1, 6)]
    assert [ruling.fate for ruling in rulings] == [Fate.QUEUED] * 2 + [Fate.HELD] * 3
    assert [displaced(ruling) for ruling in rulings[2:]] == [[], [3], [4]]
    assert [desk.run(6.0), desk.run(6.0), desk.run(6.0)] == [1, 2, None]
    due_s = desk.admission.due_s(6.0)
    assert due_s is not None
    assert desk.run(due_s) == 5
    assert desk.admission.held == 0


BEYOND = msgspec.structs.replace(
    FREE,
    per_executable=CountBudget(count=2, window_s=60.0),
    over_budget=OverBudget(
        pipeline="brief",
        per_executable=CountBudget(count=2, window_s=30.0),
        total=CountBudget(count=8, window_s=600.0),
    ),
)


def test_admission_collects_crashes_beyond_a_budget_within_a_budget_of_their_own() -> None:
    """Two in full, two without bulk, and the newest of all others is held for when there is room again in full."""
    desk = Desk(BEYOND)
    rulings = [desk.offer(core(inode, pid=inode), float(inode)) for inode in range(1, 8)]
    assert [ruling.fate for ruling in rulings] == [Fate.QUEUED] * 4 + [Fate.HELD] * 3
    assert [ruling.limit for ruling in rulings[:4]] == ["", "", *["storm.per_executable"] * 2]
    assert rulings[2].reason == "over budget: 2 incidents of engine (uid 0) in 60 s; brief"
    begun = list(iter(lambda: desk.admission.next(8.0), None))
    assert [bool(case.over_budget) for case in begun] == [False, False, True, True]
    for case in begun:
        desk.admission.finished(case, incident=f"i{case.id}", size_bytes=1)
    assert desk.run(33.0) is None, "there is room for another without bulk, and what is held waits for more"
    assert desk.offer(core(9, pid=9), 34.0).fate is Fate.QUEUED
    assert desk.run(62.0) == 8
    held = desk.admission.next(62.0)
    assert held is not None
    assert (held.id, held.over_budget) == (7, "")


def test_admission_shares_what_is_beyond_the_budgets_among_users() -> None:
    """Four loops of one user take two of eight, and the first crash of another one beyond his budget is collected."""
    desk = Desk(BEYOND)
    for number in range(40):
        desk.offer(core(number + 1, pid=number + 1, comm=f"loop{number % 4}", uid=1000), 1.0)
    others = [desk.offer(core(100 + number, pid=100 + number, uid=1001), 2.0).fate for number in range(3)]
    assert others == [Fate.QUEUED] * 3
    begun = list(iter(lambda: desk.admission.next(3.0), None))
    assert Counter(case.owner for case in begun if case.over_budget) == {"uid 1000": 2, "uid 1001": 1}


def test_admission_joins_a_late_core_to_a_crash_that_was_collected_without_bulk() -> None:
    """A dump that takes longer than its brief incident must not spend another one on the same crash."""
    desk = Desk(BEYOND)
    for pid in (1, 2, 3):
        desk.offer(exit_of(pid, ticks=pid, uid=0), 1.0)
    assert [desk.run(2.0) for _ in range(3)] == [1, 2, 3]
    late = msgspec.structs.replace(core(3, pid=3), process=ProcessRef(pid=3, start_time_ticks=3))
    assert desk.offer(late, 5.0).fate is Fate.JOINED
    first = msgspec.structs.replace(core(1, pid=1), process=ProcessRef(pid=1, start_time_ticks=1))
    assert desk.offer(first, 5.0).fate is Fate.QUEUED, "of one in full, the core is collected"


def test_admission_joins_what_belongs_to_a_held_crash() -> None:
    """The exit of a held core must not displace the core."""
    desk = Desk(msgspec.structs.replace(FREE, per_executable=CountBudget(count=1, window_s=60.0)))
    desk.offer(core(1, pid=1))
    desk.offer(core(2, pid=2))
    ruling = desk.offer(exit_of(2))
    assert (ruling.fate, ruling.displaced) == (Fate.JOINED, ())


def test_admission_charges_a_flood_to_whoever_made_it() -> None:
    """Files of the user nobody, named like the engine's, spend that user's budget only."""
    budget = CountBudget(count=2, window_s=60.0)
    desk = Desk(msgspec.structs.replace(FREE, per_executable=budget, per_uid=CountBudget(count=3, window_s=60.0)))
    fates = [desk.offer(core(n, pid=n, comm=f"engine{n % 3}", uid=65534)).fate for n in range(1, 10)]
    assert fates.count(Fate.QUEUED) == 3
    assert desk.offer(core(100, pid=100, comm="engine0")).fate is Fate.QUEUED


def test_admission_stops_at_the_bytes_of_a_window() -> None:
    """Few large incidents fill a disk as well as many small ones."""
    desk = Desk(msgspec.structs.replace(FREE, total=TotalBudget(count=0, size_bytes=100, window_s=60.0)))
    desk.offer(core(1, pid=1))
    desk.run(0.0, size_bytes=100)
    ruling = desk.offer(core(2, pid=2), 1.0)
    assert (ruling.fate, "100 bytes" in ruling.reason) == (Fate.HELD, True)


def test_admission_remembers_what_was_spent_before_a_restart() -> None:
    """Restarting the daemon does not reset a budget."""
    desk = Desk(msgspec.structs.replace(FREE, per_executable=CountBudget(count=1, window_s=60.0)))
    desk.admission.restore([Spent(at_s=-10.0, executable="engine (uid 0)", uid=0)])
    assert desk.offer(core(1, pid=1), 0.0).fate is Fate.HELD
    assert desk.run(51.0) == 1


def test_admission_bounds_its_queue_and_gives_the_last_place_to_the_newest() -> None:
    """The first stay in the queue; what is displaced gets its budget back."""
    desk = Desk(msgspec.structs.replace(FREE, queue=3))
    gone = [displaced(desk.offer(core(n, pid=n, comm=f"c{n}"))) for n in range(1, 7)]
    assert gone == [[], [], [], [3], [4], [5]]
    assert [desk.run(1.0) for _ in range(4)] == [1, 2, 6, None]


def test_admission_never_triggers_on_the_collector_itself() -> None:
    """Neither its workers nor its unit, even long after they died."""
    desk = Desk(own=OwnProcesses(pids=frozenset({77}), units=frozenset({"collector.service"})))
    assert desk.offer(exit_of(77)).fate is Fate.SUPPRESSED
    assert desk.offer(exit_of(78, unit="collector.service")).fate is Fate.SUPPRESSED
    assert desk.offer(exit_of(79)).fate is Fate.QUEUED


def test_admission_records_what_its_source_refuses() -> None:
    """It costs a row and no budget."""
    desk = Desk()
    ruling = desk.offer(msgspec.structs.replace(core(1, pid=1), refused="a symlink"))
    assert (ruling.fate, ruling.reason) == (Fate.REFUSED, "a symlink")
    assert desk.run(1.0) is None


def test_admission_lets_a_person_through() -> None:
    """Whoever asks by hand waits for the running incident, and for nothing else."""
    desk = Desk(msgspec.structs.replace(FREE, total=TotalBudget(count=1, size_bytes=0, window_s=60.0)))
    desk.offer(core(1, pid=1))
    desk.offer(core(2, pid=2))
    assert desk.offer(Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=0.0)).fate is Fate.QUEUED
    assert [desk.run(1.0), desk.run(1.0), desk.run(1.0)] == [3, 1, None]


def test_admission_runs_a_few_cases_at_once() -> None:
    """Each is read immediately, even while another one copies; when one ends the next begins, without polling."""
    desk = Desk()
    for pid in range(1, MAX_RUNNING):
        desk.offer(core(pid, pid=pid))
    running = list(iter(lambda: desk.admission.next(0.0), None))
    assert len(running) == MAX_RUNNING // 2, "all of them are root's"
    assert desk.admission.due_s(0.0) is None
    desk.admission.finished(running[3], incident=None, size_bytes=0)
    assert desk.admission.due_s(0.0) == 0.0
    assert desk.run(0.0) == MAX_RUNNING // 2 + 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3), st.booleans(), st.floats(0.0, 3.0)), max_size=300),
    st.integers(1, 5),
    st.integers(1, 4),
)
@example(events=[(1, 2, False, 0.0), (2, 2, False, 0.0), (1, 0, False, 0.0)], per=1, queue=1)
def test_admission_accounts_for_every_marker(events: list[tuple[int, int, bool, float]], per: int, queue: int) -> None:
    """Every marker ends: joined, suppressed, or in exactly one case that ran; the tables stay bounded."""
    budget = CountBudget(count=per, window_s=10.0)
    desk = Desk(msgspec.structs.replace(FREE, coalesce_s=1.0, per_executable=budget, queue=queue))
    waiting: set[int] = set()
    ran: list[int] = []
    now_s = 0.0
    for pid, name, is_core, gap_s in events:
        now_s += gap_s
        marker = core(desk.number, pid=pid, comm=f"c{name}") if is_core else exit_of(pid, comm=f"c{name}")
        ruling = desk.offer(marker, now_s)
        if ruling.fate in {Fate.QUEUED, Fate.HELD}:
            waiting.add(desk.number)
        assert waiting.issuperset(displaced(ruling))
        waiting.difference_update(displaced(ruling))
        if gap_s > 1.0 and (number := desk.run(now_s)) is not None:
            ran.append(number)
        assert desk.admission.queued <= queue
        assert desk.admission.held <= MAX_HELD
    for _ in range(1000):
        due_s = desk.admission.due_s(now_s)
        if due_s is None:
            break
        now_s = max(now_s, due_s)
        if (number := desk.run(now_s)) is not None:
            ran.append(number)
    assert len(ran) == len(set(ran))
    assert set(ran) == waiting


def test_admission_takes_two_units_that_fail_at_once_for_two_crashes() -> None:
    """What systemd reports has no process and no name: a cascade of failing services must not become one incident."""
    desk = Desk(msgspec.structs.replace(FREE, coalesce_s=5.0))
    markers = [
        Marker(kind=MarkerKind.NOTIFICATION, trigger="told", at_s=0.0, unit=unit)
        for unit in ("postgres.service", "payments.service")
    ]
    fates = [desk.offer(marker, 0.1 * at).fate for at, marker in enumerate(markers)]
    assert fates == [Fate.QUEUED, Fate.QUEUED]


def dead_line(number: int, comm: str = "worker-3") -> Marker:
    """Return a line about a task that was gone when the line was read."""
    process = ProcessRef(pid=number)
    return Marker(
        kind=MarkerKind.KERNEL_LOG, trigger="kernel", at_s=0.0, process=process, thread=number, doubtful=True,
        comm=comm, attributes={"event": "segfault", "core_dumped": "pending"},
    )  # fmt: skip


def test_admission_lists_a_witness_of_nobody_in_the_case_that_is_open() -> None:
    """It opens no case of its own, and what it says does not become what is known of the crash."""
    desk = Desk()
    desk.offer(core(1, pid=41))
    ruling = desk.offer(dead_line(43), 1.0)
    assert ruling.fate is Fate.UNATTRIBUTED
    assert ruling.case is not None
    assert [marker.attributed for marker in ruling.case.markers] == [True, False]
    assert ruling.case.marker.thread is None
    assert ruling.case.marker.joined == ()


@pytest.mark.parametrize("known", ["nothing", "another uid", "an event of the machine", "a case that is over"])
def test_admission_opens_a_case_for_a_witness_of_nobody_that_no_case_can_be_about(known: str) -> None:
    """A case that is over takes in only what is certainly its own."""
    desk = Desk()
    if known == "another uid":
        desk.offer(exit_of(41, ticks=9, uid=1000))
    elif known == "an event of the machine":
        desk.offer(event("I/O error"))
    elif known == "a case that is over":
        desk.offer(core(1, pid=41))
        assert desk.run(0.1) is not None
    assert desk.offer(msgspec.structs.replace(dead_line(43), uid=0), 1.0).fate is Fate.QUEUED


def test_admission_gives_a_case_that_a_thread_has_opened_its_process() -> None:
    """The kernel's line comes first, and its task is gone; the dump's announcement knows that thread."""
    desk = Desk()
    desk.offer(dead_line(43))
    ruling = desk.offer(exit_of(41, ticks=9, thread=43, uid=0), 0.01)
    assert ruling.fate is Fate.JOINED
    assert ruling.case is not None
    merged = ruling.case.marker
    assert (merged.process, merged.thread, merged.comm, merged.thread_comm, merged.doubtful) == (
        ProcessRef(pid=41, start_time_ticks=9), 43, "engine", "worker-3", False,
    )  # fmt: skip


def test_admission_runs_the_pipeline_of_the_crash_rather_than_that_of_the_kernels_line() -> None:
    """Otherwise it would depend on which of the two is read first whether the core is collected."""
    desk = Desk()
    lost = msgspec.structs.replace(line_of(41), attributes={"event": "core_lost"}, signal=None)
    desk.admission.offer(1, lost, pipeline="brief", now_s=0.0)
    assert desk.admission.next(0.0) is None
    desk.admission.offer(2, exit_of(41, ticks=9, attributes={"core_dumped": "no"}), pipeline="crash", now_s=0.1)
    case = desk.admission.next(0.1)
    assert case is not None
    assert case.pipeline == "crash"


def test_admission_lets_no_claim_take_the_place_of_what_is_certain() -> None:
    """The user nobody names the dying PID between the exit and its core; the core still finds its case."""
    desk = Desk()
    desk.offer(exit_of(41, ticks=9, uid=0))
    claim = msgspec.structs.replace(exit_of(41, uid=65534), doubtful=True)
    assert desk.offer(claim, 0.1).fate is Fate.QUEUED
    assert desk.offer(core(1, pid=41), 0.2).fate is Fate.JOINED


def test_admission_does_not_take_a_claim_for_the_collectors_own_process() -> None:
    """A container's PID is a number of the container; ours may be the same."""
    desk = Desk(own=OwnProcesses(pids=frozenset({41})))
    assert desk.offer(msgspec.structs.replace(core(1, pid=41), doubtful=True)).fate is Fate.QUEUED
    assert desk.offer(core(2, pid=41)).fate is Fate.SUPPRESSED


def test_admission_knows_at_the_end_whether_there_is_a_core() -> None:
    """The exit's word outweighs the announcement's."""
    desk = Desk()
    desk.offer(exit_of(41, ticks=9, signal=None, attributes={"core_dumped": "pending"}))
    assert desk.admission.next(0.1) is None
    desk.offer(exit_of(41, ticks=9, attributes={"core_dumped": "no"}), 0.1)
    case = desk.admission.next(0.1)
    assert case is not None
    assert (case.marker.attributes["core_dumped"], case.marker.signal) == ("no", 11)


def test_admission_never_triggers_on_a_child_of_its_own() -> None:
    """A worker's child says in its exit whose child it is; what others report has no such word to believe."""
    desk = Desk(own=OwnProcesses(pids=frozenset({77})))
    assert desk.offer(exit_of(80, attributes={"parent": "77"})).fate is Fate.SUPPRESSED
    assert desk.offer(exit_of(81, attributes={"parent": "78"})).fate is Fate.QUEUED
    assert desk.offer(dump_of(83, 83, parent="77")).fate is Fate.SUPPRESSED
    told = msgspec.structs.replace(core(1, pid=82), attributes={"parent": "77"})
    assert desk.offer(told).fate is Fate.QUEUED


def test_admission_waits_for_no_core_file_where_the_kernel_offers_the_dump() -> None:
    """The announced exit alone would wait; held or refused, no file will come."""
    for dump in (HELD_DUMP, "its dump was refused: 8 are held"):
        desk = Desk()
        opened = desk.offer(exit_of(7, ticks=99, attributes={"core_dumped": "pending"}))
        assert desk.admission.next(0.0) is None
        assert desk.offer(dump_of(7, 99, dump), 0.01).case is opened.case
        assert desk.run(0.01) == 1


def test_admission_gives_a_held_process_a_new_case_when_its_incident_is_over() -> None:
    """As for a core that comes late; a refused dump brings nothing."""
    desk = Desk()
    desk.offer(exit_of(7, ticks=99, attributes={"core_dumped": "no"}))
    desk.run(0.0)
    assert desk.offer(dump_of(7, 99, "its dump was refused"), 1.0).fate is Fate.JOINED
    assert desk.offer(dump_of(7, 99), 1.0).fate is Fate.QUEUED


def test_admission_is_idle_when_nothing_waits_or_runs() -> None:
    """What is held waits for a budget, and needs nobody until then."""
    desk = Desk(msgspec.structs.replace(FREE, per_executable=CountBudget(count=1, window_s=60.0)))
    assert desk.admission.idle
    desk.offer(core(1, pid=1))
    assert not desk.admission.idle
    case = desk.admission.next(0.0)
    assert case is not None
    assert not desk.admission.idle
    desk.offer(core(2, pid=2))
    desk.admission.finished(case, incident="i", size_bytes=1)
    assert (desk.admission.held, desk.admission.idle) == (1, True)


def test_admission_knows_a_core_that_is_reported_again_after_its_incident() -> None:
    """Only a core that the incident does not have opens another one."""
    desk = Desk()
    desk.offer(core(1, pid=7))
    desk.run(0.0)
    again = desk.offer(core(1, pid=7), 1.0)
    assert (again.fate, again.case and again.case.incident) == (Fate.JOINED, "i1")


def test_admission_counts_time_between_witnesses_and_not_since_the_boot() -> None:
    """A line of the same PID joins, and the event reported again does, weeks after the boot as on its first day."""
    desk = Desk(msgspec.structs.replace(FREE, coalesce_s=5.0))
    desk.offer(exit_of(7, ticks=9), 1e6)
    assert desk.offer(line_of(7), 1e6 + 1.0).fate is Fate.JOINED
    desk.offer(event("I/O error"), 1e6)
    assert desk.offer(event("I/O error"), 1e6 + 4.9).fate is Fate.JOINED


@pytest.mark.parametrize(("is_over", "after_s", "fate"), [
    (False, 4.9, Fate.JOINED),
    (False, 5.0, Fate.QUEUED),
    (True, 1.0, Fate.QUEUED),
])  # fmt: skip
def test_admission_opens_a_case_for_an_event_once_the_last_one_is_over(
    is_over: bool, after_s: float, fate: Fate
) -> None:
    """Within *coalesce* of the first report an event is one case, but nothing is added to an incident."""
    desk = Desk(msgspec.structs.replace(FREE, coalesce_s=5.0))
    desk.offer(event("I/O error"))
    if is_over:
        assert desk.run(0.5) == 1
    assert desk.offer(event("I/O error"), after_s).fate is fate


def test_admission_changes_neither_the_pipeline_of_a_crash_nor_one_that_runs() -> None:
    """Only a case that the kernel's line began, and that has not begun to run, takes that of a later witness."""
    admission = Admission(FREE)
    complete = {"core_dumped": "no"}
    admission.offer(1, exit_of(41, ticks=9, attributes=complete), pipeline="crash", now_s=0.0)
    admission.offer(2, line_of(41), pipeline="brief", now_s=0.1)
    case = admission.next(0.1)
    assert case is not None
    assert (case.pipeline, len(case.markers)) == ("crash", 2)
    lost = msgspec.structs.replace(line_of(42), attributes={"event": "core_lost"}, signal=None)
    admission.offer(3, lost, pipeline="brief", now_s=1.0)
    case = admission.next(1.0 + SETTLE_S)
    admission.offer(4, exit_of(42, ticks=9, attributes=complete), pipeline="crash", now_s=1.6)
    assert case is not None
    assert (case.pipeline, len(case.markers)) == ("brief", 2)


def test_admission_leaves_a_case_that_is_over_with_who_paid_for_it() -> None:
    """Then it knows only the end of its executable's path, by which nobody else must be charged."""
    desk = Desk()
    said = exit_of(41, ticks=9, exe="/opt/engine", attributes={"core_dumped": "no"})
    first = desk.offer(said)
    desk.run(0.0)
    late = desk.offer(said, 1.0)
    assert (late.fate, late.owner) == (Fate.JOINED, first.owner)
    assert "/opt/engine" in late.owner


@pytest.mark.parametrize("pipeline", [None, "brief"])
def test_admission_joins_the_late_core_of_a_crash_that_it_gave_up(pipeline: str | None) -> None:
    """A newer crash took its place; its core opens no incident, and does not take that place back."""
    budgets = {"per_executable": CountBudget(count=1, window_s=60.0), "over_budget": OverBudget(pipeline=pipeline)}
    desk = Desk(msgspec.structs.replace(FREE, **budgets))
    for pid in range(1, 10):
        desk.offer(exit_of(pid, ticks=pid, attributes={"core_dumped": "yes"}), float(pid))
    late = [desk.offer(core(pid, pid=pid), 10.0 + pid) for pid in range(1, 10)]
    given_up = [ruling for ruling in late if ruling.case is not None and ruling.case.given_up]
    assert len(given_up) == (7 if pipeline is None else 2)
    assert {ruling.fate for ruling in late} == {Fate.JOINED}
    assert all(not ruling.displaced for ruling in late)


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "begun"])
@pytest.mark.parametrize("pipeline", [None, "brief"])
def test_admission_bounds_a_loop_that_is_seen_first_by_who_does_not_know_its_user(
    pipeline: str | None, begun: bool
) -> None:
    """systemd says that a unit failed, a slow handler of cores whose crash that was: the first account fills, too."""
    budget = CountBudget(count=2, window_s=600.0)
    desk = Desk(msgspec.structs.replace(FREE, per_executable=budget, over_budget=OverBudget(pipeline=pipeline)))
    in_full = brief = 0
    for pid in range(1, 31):
        told = exit_of(pid, uid=None, comm=None, unit="engine.service")
        opened = desk.offer(msgspec.structs.replace(told, kind=MarkerKind.NOTIFICATION), float(pid))
        case = desk.admission.next(pid + 0.6) if begun else None
        late = desk.offer(core(pid, pid=pid, uid=1000), pid + 0.7)
        assert (opened.case is late.case, late.fate) == (True, Fate.JOINED)
        ended = [one for one in (case, desk.admission.next(pid + 0.9)) if one is not None]
        for one in ended:
            desk.admission.finished(one, incident=f"i{one.id}", size_bytes=1)
        brief += sum(bool(one.over_budget) for one in ended)
        in_full += sum(not one.over_budget for one in ended)
    assert in_full == (4 if begun else 2)
    assert brief <= (0 if pipeline is None else 10)
    assert desk.admission.held <= 2
