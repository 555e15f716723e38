"""Admission against a model: real crashes, and witnesses that know random parts of the truth, some of them hostile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from collector.model.admission import Admission
from collector.model.budgets import CountBudget, StormSettings, TotalBudget
from collector.model.case import Case, Fate
from collector.model.identity import is_certain
from collector.model.marker import CoreRef, Marker, MarkerKind, ProcessRef

UNBOUNDED = StormSettings(
    coalesce_s=5.0,
    per_executable=CountBudget(count=0, window_s=60.0),
    per_uid=CountBudget(count=0, window_s=60.0),
    total=TotalBudget(count=0, size_bytes=0, window_s=60.0),
    queue=10_000,
)
ROOT, NOBODY = 0, 65534
SIGNALS = (6, 11)


@dataclass(frozen=True)
class Crash:
    """The truth about one crash; *inner_pid* differs from *pid* in a container, *has_host_pid* is said of its core."""

    number: int
    pid: int
    start: int
    thread: int
    inner_pid: int
    uid: int
    comm: str
    thread_comm: str
    unit: str
    signal: int
    has_host_pid: bool
    image: str


@dataclass
class Story:
    """What happened, and who says what, in the order in which it arrives."""

    crashes: list[Crash]
    witnesses: list[tuple[Crash | None, Marker]] = field(default_factory=list)


@st.composite
def crash(draw: st.DrawFn, number: int) -> Crash:
    """Programs, users, units and inner PIDs collide freely; a host PID with its start time does not."""
    pid = draw(st.sampled_from((40, 50, 60))) + 100 * number
    in_container = draw(st.booleans())
    comm = draw(st.sampled_from(("engine", "python3")))
    return Crash(
        number=number,
        pid=pid,
        start=draw(st.integers(1, 3)),
        thread=pid + draw(st.sampled_from((0, 1, 2))),
        inner_pid=draw(st.sampled_from((1, 7))) if in_container else pid,
        uid=draw(st.sampled_from((ROOT, 1000))),
        comm=comm,
        thread_comm=draw(st.sampled_from((comm, "worker-1"))),
        unit=draw(st.sampled_from(("a.service", "b.service"))),
        signal=draw(st.sampled_from(SIGNALS)),
        has_host_pid=draw(st.booleans()),
        image="",
    )


@st.composite
def witness(draw: st.DrawFn, truth: Crash) -> Marker:
    """One of the sources, with as much of the truth as it happened to learn."""

    def perhaps(value: object) -> object:
        return value if draw(st.booleans()) else None

    core = "core" if truth.has_host_pid else "inner core"
    source = draw(st.sampled_from(("exit", "dying", "line", "dead line", core, "unit", "nameless")))
    facts: dict[str, object] = {"signal": perhaps(truth.signal), "unit": perhaps(truth.unit)}
    whole = ProcessRef(pid=truth.pid, start_time_ticks=truth.start)
    match source:
        case "exit" | "dying":
            facts |= {"process": whole, "uid": truth.uid, "comm": truth.comm, "inner_pid": truth.inner_pid}
            facts["image"] = truth.image
            facts["thread"] = truth.thread if source == "dying" else None
            kind = MarkerKind.EXIT
        case "line":
            facts |= {"process": whole, "thread": truth.thread, "uid": truth.uid, "comm": truth.comm}
            facts |= {"image": truth.image, "inner_pid": truth.inner_pid}
            facts |= {"thread_comm": truth.thread_comm, "attributes": {"event": "segfault"}}
            kind = MarkerKind.KERNEL_LOG
        case "dead line":
            facts |= {"process": ProcessRef(pid=truth.thread), "thread": truth.thread, "doubtful": True}
            facts |= {"comm": truth.thread_comm, "unit": None}
            facts["attributes"] = {"event": "segfault"}
            kind = MarkerKind.KERNEL_LOG
        case "core" | "inner core":
            pid = truth.pid if source == "core" else truth.inner_pid
            facts |= {"process": ProcessRef(pid=pid), "doubtful": source != "core" or truth.uid != ROOT}
            facts |= {"inner_pid": truth.inner_pid, "comm": truth.comm, "uid": truth.uid, "unit": None}
            facts["image"] = truth.image if source == "inner core" else None
            facts["core"] = CoreRef(
                path="/c/core", device=1, inode=truth.number + 1, size_bytes=1, mtime_ns=1, uid=truth.uid
            )
            kind = MarkerKind.CORE_FILE
        case "unit":
            facts |= {"unit": truth.unit, "signal": truth.signal}
            kind = MarkerKind.NOTIFICATION
        case _:
            facts["comm"] = perhaps(truth.comm)
            kind = MarkerKind.NOTIFICATION
    return Marker(kind=kind, trigger=source, at_s=0.0, reason=f"truth {truth.number}", **facts)  # type: ignore[arg-type]


@st.composite
def lie(draw: st.DrawFn, crashes: list[Crash]) -> Marker:
    """What the user nobody can say: anything about himself, and PIDs that he may not name are doubtful."""
    victim = draw(st.sampled_from(crashes))
    named = draw(st.booleans())
    core = CoreRef(path="/c/lie", device=2, inode=draw(st.integers(1, 9)), size_bytes=1, mtime_ns=1, uid=NOBODY)
    core = draw(st.sampled_from((None, core)))
    return Marker(
        kind=draw(st.sampled_from((MarkerKind.NOTIFICATION, MarkerKind.EXIT))),
        trigger="lie",
        at_s=0.0,
        reason="lie",
        uid=NOBODY,
        process=ProcessRef(pid=victim.pid, start_time_ticks=victim.start) if named else None,
        doubtful=named,
        inner_pid=draw(st.sampled_from((None, victim.inner_pid))),
        thread=draw(st.sampled_from((None, victim.thread))) if named else None,
        comm=victim.comm,
        unit=draw(st.sampled_from((None, victim.unit))),
        signal=draw(st.sampled_from((None, victim.signal))),
        core=core,
        image=draw(st.sampled_from((None, victim.image))) if core is not None else None,  # his parent may be the victim
    )


@st.composite
def story(draw: st.DrawFn) -> Story:
    """One to four crashes, up to five witnesses of each, and a few lies, in any order."""
    crashes: list[Crash] = []
    for number in range(draw(st.integers(1, 4))):
        one, image = draw(crash(number)), draw(st.sampled_from(("parent's", f"image {number}")))
        # Forked siblings have the same addresses, and are numbered by the same PID namespace.
        taken = any((other.image, other.inner_pid) == (image, one.inner_pid) for other in crashes)
        crashes.append(replace(one, image=f"image {number}" if taken else image))
    told = Story(crashes)
    for truth in crashes:
        told.witnesses += [(truth, draw(witness(truth))) for _ in range(draw(st.integers(0, 5)))]
    told.witnesses += [(None, draw(lie(crashes))) for _ in range(draw(st.integers(0, 3)))]
    told.witnesses = draw(st.permutations(told.witnesses))
    return told


def about(case: Case, told: Story) -> set[int | None]:
    """Return the crashes that the attributed markers of a case are about; ``None`` for a lie."""
    truths = {id(marker): truth for truth, marker in told.witnesses}
    assert truths
    return {
        None if marker.reason == "lie" else int(marker.reason.split()[1])
        for marker in case.markers
        if marker.attributed
    }


@settings(deadline=None)
@given(story(), st.floats(0.0, 1.0))
def test_admission_makes_one_case_of_each_crash(told: Story, pace_s: float) -> None:
    """
    As many cases as crashes with a certain witness; nothing about somebody else, nothing swallowed.

    Each case stays open, as they do while they are collected.
    """
    admission = Admission(UNBOUNDED)
    cases: dict[int, Case] = {}
    fates: list[tuple[Crash | None, Marker, Fate, Case | None]] = []
    for number, (truth, marker) in enumerate(told.witnesses):
        ruling = admission.offer(number, marker, pipeline="crash", now_s=number * pace_s)
        assert ruling.fate in {Fate.QUEUED, Fate.JOINED, Fate.UNATTRIBUTED}
        fates.append((truth, marker, ruling.fate, ruling.case))
        assert ruling.case is not None
        cases[ruling.case.id] = ruling.case
    for case in cases.values():
        assert len(about(case, told)) == 1, "one case, one crash"
    certain = {truth.number for truth, marker in told.witnesses if truth is not None and is_certain(marker)}
    owners: dict[int, set[int]] = {}
    for truth, marker, fate, case in fates:
        if truth is not None and case is not None and is_certain(marker):
            assert fate is not Fate.UNATTRIBUTED
            owners.setdefault(truth.number, set()).add(case.id)
    assert set(owners) == certain
    assert all(len(found) == 1 for found in owners.values()), "each crash has one case"
    for _, marker, fate, case in fates:
        if fate is Fate.UNATTRIBUTED:
            assert not is_certain(marker)
            assert case is not None
            assert any(not kept.attributed and kept.reason == marker.reason for kept in case.markers)
