"""A case: what its markers know together, which of them it keeps, who pays for it, and whether a core is awaited."""

from __future__ import annotations

import msgspec
import pytest

from collector.model.case import MAX_MARKERS, Case, Fate, awaits_core, executable, merge, owner_of
from collector.model.identity import COMM_LENGTH, HOST_MOUNTS, INVOCATION
from collector.model.marker import SYSTEM_UNIT, CoreRef, Marker, MarkerKind, ProcessRef
from collector.model.owners import Owners

CORE = CoreRef(path="/crash/core", device=1, inode=1, size_bytes=1, mtime_ns=1, uid=0)
OWNERS = Owners(units=frozenset({"engine.service"}))
LONG = "a-name-of-more-than-15-bytes"


def marker(pid: int | None = 41, start: int | None = None, **facts: object) -> Marker:
    known: dict[str, object] = {"kind": MarkerKind.EXIT, "trigger": "exits", "at_s": 0.0, **facts}
    if pid is not None:
        known["process"] = ProcessRef(pid=pid, start_time_ticks=start)
    return Marker(**known)  # type: ignore[arg-type]


def case_of(*markers: Marker, ready_s: float = 10.0) -> Case:
    return Case(
        id=1, pipeline="crash", opened_s=0.0, ready_s=ready_s, executable="e", owner="root", markers=list(markers)
    )


EVENT = marker(None, kind=MarkerKind.KERNEL_LOG, attributes={"event": "oops"})


def test_fate_is_open_until_the_marker_is_dealt_with() -> None:
    assert {fate for fate in Fate if fate.open} == {Fate.RECORDED, Fate.QUEUED, Fate.HELD}


@pytest.mark.parametrize(
    ("said", "is_crash"),
    [(marker(), True), (marker(kind=MarkerKind.MANUAL), False), (EVENT, False)],
)
def test_case_is_a_crash_if_it_is_about_a_process(said: Marker, is_crash: bool) -> None:
    """Neither a run by hand, though it may name a process, nor an event of the machine."""
    assert case_of(said).is_crash is is_crash


def test_case_keeps_the_first_the_cores_and_the_newest() -> None:
    """What is not certainly about this crash gives way first, then the oldest repetition."""
    first, core = marker(at_s=0.0), marker(at_s=1.0, core=CORE)
    others = [marker(at_s=float(at), attributed=at != 5) for at in range(2, MAX_MARKERS)]
    case = case_of(first, core)
    for other in others:
        case.add(other, 1.0)
    assert [one.at_s for one in case.markers] == [float(at) for at in range(MAX_MARKERS)]
    gone = []
    for at in range(MAX_MARKERS, MAX_MARKERS + 3):
        before = case.markers
        case.add(marker(at_s=float(at)), 1.0)
        gone += [one for one in range(at) if one not in {kept.at_s for kept in case.markers}]
        assert (len(before), case.markers[-1].at_s) == (MAX_MARKERS, at)
    assert sorted(set(gone)) == [2, 3, 5]
    assert gone[0] == 5
    assert case.markers[:2] == [first, core]


def test_case_that_has_nothing_but_cores_keeps_the_first_and_the_newest() -> None:
    """Anybody can copy a core twenty times into a directory that is watched."""
    case = case_of(marker())
    for at in range(1, MAX_MARKERS + 4):
        case.add(marker(at_s=float(at), core=CORE), 1.0)
    assert [one.at_s for one in case.markers] == [0.0, 1.0, *range(6, MAX_MARKERS + 4)]


def test_case_gives_up_a_core_that_nothing_shows_to_be_its_own() -> None:
    """A planted one must not displace the newest witness."""
    planted = marker(at_s=1.0, core=CORE, attributed=False)
    case = case_of(marker(), planted, *(marker(at_s=float(at)) for at in range(2, MAX_MARKERS)))
    case.add(marker(at_s=99.0), 1.0)
    assert planted not in case.markers


@pytest.mark.parametrize(
    ("second", "now_s", "ready_s"),
    [
        (marker(core=CORE), 3.0, 3.0),
        (marker(core=CORE), 20.0, 10.0),  # it has been ready since then
        (marker(attributes={"core_dumped": "no"}), 3.0, 3.0),
        (marker(core=CORE, attributed=False), 3.0, 10.0),
        (marker(attributed=False, attributes={"core_dumped": "no"}), 3.0, 10.0),
        (marker(), 3.0, 10.0),
    ],
)
def test_case_is_ready_with_its_core(second: Marker, now_s: float, ready_s: float) -> None:
    """Or with the word that there is none; not with what may be of another crash."""
    case = case_of(marker(signal=11))
    case.add(second, now_s)
    assert case.ready_s == ready_s


def test_case_that_awaits_other_witnesses_begins_with_one_of_its_own() -> None:
    """A core that the kernel calls lost is not awaited; what may be of another crash says nothing about it."""
    case = case_of(marker(kind=MarkerKind.KERNEL_LOG, attributes={"event": "core_lost"}))
    case.add(marker(attributed=False), 3.0)
    assert case.ready_s == 10.0
    case.add(marker(), 4.0)
    assert case.ready_s == 4.0


@pytest.mark.parametrize(
    ("said", "awaited"),
    [
        (marker(signal=11), True),
        (marker(signal=9), False),
        (marker(signal=11, attributes={"core_dumped": "no"}), False),
        (marker(signal=9, attributes={"core_dumped": "yes"}), True),
        (marker(attributes={"core_dumped": "pending"}), True),
        (marker(attributes={"core_dumped": "no"}), False),
        (marker(), False),
        (marker(signal=11, core=CORE), False),
        (marker(signal=11, kind=MarkerKind.MANUAL), False),
    ],
)
def test_core_is_awaited_where_a_signal_or_a_word_announces_it(said: Marker, awaited: bool) -> None:
    """A run by hand waits for nothing, and the word of who saw the dump outweighs the signal."""
    assert awaits_core(said) is awaited


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (marker(exe="/opt/engine", comm="engine", uid=7), "/opt/engine (uid 7)"),
        (marker(comm=LONG, uid=0), f"{LONG[:COMM_LENGTH]} (uid 0)"),
        (marker(None, unit="a.service"), "a.service (uid ?)"),
        (marker(None), "<exits> (uid ?)"),
        (marker(exe="/e", uid=7, attributes={"mount_namespace": "mnt:[9]"}), "/e (uid 7) in mnt:[9]"),
        (marker(exe="/e", uid=7, attributes={"mount_namespace": HOST_MOUNTS}), "/e (uid 7)"),
        (marker(comm="e", uid=7, attributes={"mount_namespace": "mnt:[9]"}), "e (uid 7)"),  # a name is no path
    ],
)
def test_executable_is_its_path_else_a_name_and_whose_it_is(said: Marker, shown: str) -> None:
    """A path in another mount namespace is another file."""
    assert executable(said) == shown


@pytest.mark.parametrize(
    ("said", "owner"),
    [
        (EVENT, "root/<exits> (uid ?)"),
        (msgspec.structs.replace(EVENT, uid=1000), "uid 1000"),
        (marker(comm="e"), "unknown/e (uid ?)"),
        (marker(comm="e", attributes={SYSTEM_UNIT: "a.service"}), "root/e (uid ?)"),
        (marker(comm="e", attributes={SYSTEM_UNIT: "engine.service"}), "unit engine.service"),
        (marker(comm="e", uid=1000, attributes={SYSTEM_UNIT: "a.service"}), "uid 1000"),
        (marker(comm="e", uid=1000, attributes={SYSTEM_UNIT: "engine.service"}), "unit engine.service"),
        (msgspec.structs.replace(EVENT, attributes={SYSTEM_UNIT: "engine.service"}), "unit engine.service"),
    ],
)
def test_owner_is_whose_crash_it_is_and_the_machine_for_its_own_events(said: Marker, owner: str) -> None:
    """Whose process it is, unless root or the kernel says that it belongs to a unit with a share of its own."""
    assert owner_of(said, OWNERS) == owner


CLAIM = marker(40, doubtful=True, comm="worker")
SEEN = marker(41, 9, comm="engine")


@pytest.mark.parametrize(
    ("first", "second", "process", "names", "doubtful"),
    [
        (CLAIM, SEEN, SEEN.process, ("engine", "worker"), False),  # what was seen outweighs what was said
        (SEEN, CLAIM, SEEN.process, ("engine", "worker"), False),
        (SEEN, marker(42, 8, comm="other"), SEEN.process, ("engine", "other"), False),
        (SEEN, marker(None, comm="engine"), SEEN.process, ("engine", None), False),
        (SEEN, marker(None, comm="a", thread_comm="b"), SEEN.process, ("engine", "b"), False),
        (marker(40, comm="a"), CLAIM, ProcessRef(pid=40), ("a", "worker"), False),  # of two claims the first
        (marker(None, comm="a"), CLAIM, CLAIM.process, ("worker", "a"), True),  # there was none
        (marker(None), CLAIM, CLAIM.process, ("worker", None), True),
        (marker(None, comm="a"), marker(None, comm="b"), None, ("a", "b"), False),
        (marker(41), marker(41, 9), SEEN.process, (None, None), False),
        (marker(41, comm="a"), marker(41, 9), SEEN.process, ("a", None), False),
        (marker(41), SEEN, SEEN.process, ("engine", None), False),
        (marker(41, comm="a", thread_comm="t"), SEEN, SEEN.process, ("engine", "a"), False),
        (marker(41, comm="engine", thread_comm="t"), SEEN, SEEN.process, ("engine", "t"), False),
        (marker(41), marker(41, 9, comm="engine", thread_comm="t"), SEEN.process, ("engine", "t"), False),
        (marker(41, 9), marker(None, comm="a"), SEEN.process, ("a", None), False),
        (marker(41, 9, comm="engine", thread_comm="t"), CLAIM, SEEN.process, ("engine", "t"), False),
    ],
)
def test_case_knows_the_process_that_was_seen_and_its_name(
    first: Marker, second: Marker, process: ProcessRef | None, names: tuple[str | None, str | None], doubtful: bool
) -> None:
    """A name told by whoever did not see the process may be that of its thread."""
    known = merge([first, second])
    assert (known.process, (known.comm, known.thread_comm), known.doubtful) == (process, names, doubtful)


def test_case_fills_in_what_its_first_witness_did_not_know() -> None:
    """Nothing that is known is replaced, but for whether there is a core; what may be of another crash adds nothing."""
    first = marker(signal=0, attributes={"a": "1", "core_dumped": "pending"})
    second = marker(signal=11, uid=7, trigger="cores", attributes={"a": "2", "b": "3", "core_dumped": "no"})
    doubted = marker(unit="u", exit_status=3, trigger="other", attributes={"c": "4"}, attributed=False)
    known = merge([first, doubted, second])
    assert (known.signal, known.uid, known.unit, known.exit_status) == (0, 7, None, None)
    assert known.attributes == {"a": "1", "b": "3", "core_dumped": "no"}
    assert (known.trigger, known.joined) == ("exits", ("cores",))


def test_case_that_is_over_keeps_names_as_long_as_the_kernels() -> None:
    """Of a path its end, of the attributes those that tell one run of a unit from another, of a core which it is."""
    kept = {"event": "e", **dict.fromkeys(INVOCATION, "i")}
    said = marker(
        comm=LONG, thread_comm=LONG, exe=f"/opt/{LONG}", reason="r", attributes={**kept, "REST": "x"},
        core=msgspec.structs.replace(CORE, head="h", handle="h", watched=("/w",)),
    )  # fmt: skip
    for one, name, core in ((said, LONG[:COMM_LENGTH], msgspec.structs.replace(CORE, path="")), (marker(), None, None)):
        case = case_of(one)
        case.end()
        (left,) = case.markers
        assert case.done
        assert (left.comm, left.thread_comm, left.exe, left.core, left.reason) == (name, name, name, core, "")
        assert left.attributes == (kept if name else {})
