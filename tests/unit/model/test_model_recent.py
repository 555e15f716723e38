"""The recent cases: which of them a later marker finds, and whose entries a flood displaces."""

from __future__ import annotations

import pytest

from collector.model.case import Case
from collector.model.marker import CoreRef, Marker, MarkerKind, ProcessRef
from collector.model.recent import RecentCases


def marker(pid: int | None = None, start: int | None = None, **facts: object) -> Marker:
    known: dict[str, object] = {"kind": MarkerKind.EXIT, "trigger": "t", "at_s": 0.0, **facts}
    if pid is not None:
        known["process"] = ProcessRef(pid=pid, start_time_ticks=start)
    return Marker(**known)  # type: ignore[arg-type]


def core(uid: int) -> CoreRef:
    return CoreRef(path="/c", device=1, inode=1, size_bytes=1, mtime_ns=1, uid=uid)


def case_of(number: int, said: Marker) -> Case:
    return Case(id=number, pipeline="crash", opened_s=0.0, ready_s=0.0, executable="e", owner="root", markers=[said])


def finds(said: Marker, later: Marker) -> bool:
    """Whether *later* finds a case that began with *said*."""
    recent = RecentCases()
    case = case_of(1, said)
    recent.add(case, said, owner="root")
    return recent.sharing(later) == [case]


RUN = {"INVOCATION_ID": "r"}


@pytest.mark.parametrize(
    ("said", "later", "found"),
    [
        (marker(7), marker(7), True),
        (marker(7), marker(8), False),
        (marker(7), marker(8, thread=7), True),
        (marker(7, 9), marker(7, 10), True),  # whether it is the same is for `agreement` to say
        (marker(image="i", inner_pid=3), marker(image="i", inner_pid=3), True),
        (marker(image="i", inner_pid=3), marker(image="i", inner_pid=4), False),
        (marker(), marker(), False),  # what is not known is no key
        (marker(attributes=RUN), marker(attributes=RUN), True),
        (marker(attributes=RUN), marker(attributes={"INVOCATION_ID": "other"}), False),
        # A claim is found by what else its user says, and by the memory of a process that the kernel or root showed.
        (marker(7, doubtful=True, uid=1), marker(7, uid=1), True),
        (marker(7, doubtful=True, uid=1), marker(7, uid=0), False),
        (marker(7, uid=0), marker(7, doubtful=True, uid=1), True),
        (marker(7, doubtful=True, uid=1, image="i"), marker(8, uid=0, image="i"), True),
        (marker(7, doubtful=True, uid=1, image="i", core=core(0)), marker(8, uid=0, image="i"), True),
        (marker(7, doubtful=True, uid=1, image="i", core=core(1)), marker(8, uid=0, image="i"), False),
        (marker(7, doubtful=True, uid=1), marker(8, uid=0), False),
    ],
)
def test_recent_case_is_found_by_what_two_markers_share(said: Marker, later: Marker, found: bool) -> None:
    """A process, a thread, a memory or the run of a unit; of a claim, only by its user unless it cannot be chosen."""
    assert finds(said, later) is found


def test_recent_event_is_found_by_its_name() -> None:
    """An event of the machine has no process."""
    recent = RecentCases()
    oops = marker(kind=MarkerKind.PRESSURE, trigger="memory")
    case = case_of(1, oops)
    recent.add(case, oops, owner="root")
    assert recent.of_event(oops) is case
    assert recent.of_event(marker(kind=MarkerKind.PRESSURE, trigger="other")) is None
    assert recent.sharing(marker(7)) == []


def test_recent_case_of_a_pid_is_the_newest_unless_the_start_time_is_known() -> None:
    """A number is used again; whoever knows when its process started finds an older one, too."""
    recent = RecentCases()
    cases = [case_of(number, marker(7, start)) for number, start in ((1, None), (2, 9), (3, 10))]
    for case in cases:
        recent.add(case, case.markers[0], owner="root")
    assert recent.sharing(marker(7)) == cases[2:]
    assert recent.sharing(marker(7, 9)) == [cases[2], cases[1]]
