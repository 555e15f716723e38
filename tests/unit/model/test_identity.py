"""Whose crash it is: who may be taken for the crashed process, and which markers are one crash."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from collector.model.identity import (
    HOST_MOUNTS,
    LONGEST_DUMP_S,
    SAME_CRASH_S,
    Identity,
    agreement,
    contradiction,
    is_about_a_process,
    is_certain,
    is_the_dead,
    is_the_named,
    is_the_reported,
    with_identity,
)
from collector.model.marker import CoreRef, Marker, MarkerKind, ProcessRef

ENGINE = Identity(
    pid=41, tgid=41, comm="engine", start_ticks=900, parent=1, uid=0, dying=True, inner_pid=7,
    exe="/opt/engine", mounts=HOST_MOUNTS, unit="engine.service", image="addresses", core_limit="0",
)  # fmt: skip
LIVING = replace(ENGINE, dying=False)


def marker(
    kind: MarkerKind = MarkerKind.EXIT, pid: int | None = 41, start: int | None = None, **facts: object
) -> Marker:
    process = ProcessRef(pid=pid, start_time_ticks=start) if pid is not None else None
    return Marker(kind=kind, trigger="t", at_s=0.0, process=process, **facts)  # type: ignore[arg-type]


def core(inode: int = 1, owner: int = 0) -> CoreRef:
    return CoreRef(path="/c/core", device=1, inode=inode, size_bytes=1, mtime_ns=1, uid=owner)


@pytest.mark.parametrize(
    ("seen", "uid", "comm", "believed"),
    [
        (ENGINE, 0, "engine", True),
        (ENGINE, None, None, True),
        (LIVING, 0, "engine", False),  # whoever has left a complete core does not live
        (ENGINE, 1000, None, False),
        (ENGINE, 0, "shell", False),
    ],
)
def test_identity_of_the_dead(seen: Identity, uid: int | None, comm: str | None, believed: bool) -> None:
    """Only who is dying can be the process of a complete core."""
    assert is_the_dead(seen, uid=uid, comm=comm) is believed


@pytest.mark.parametrize(
    ("seen", "comm", "at_ticks", "believed"),
    [
        (LIVING, "engine", 900, True),
        (LIVING, "engine", 9900, True),
        (LIVING, "engine", 899, False),  # it has started after the line
        (ENGINE, "engine", 899, True),  # the log's clock may differ a little
        (ENGINE, None, 899, False),
        (LIVING, None, 900, True),
        (replace(LIVING, start_ticks=None), "engine", 900, False),
        (replace(ENGINE, start_ticks=None), "engine", 900, True),
        (LIVING, "shell", 9900, False),
        (replace(LIVING, comm="a\nb"), "a\\x0ab", 900, True),  # lines are escaped
    ],
)
def test_identity_named_by_the_kernel(seen: Identity, comm: str | None, at_ticks: int, believed: bool) -> None:
    """A number has one holder at a time: whoever had started by then."""
    assert is_the_named(seen, comm=comm, at_ticks=at_ticks) is believed


@pytest.mark.parametrize(
    ("seen", "said", "over", "believed"),
    [
        (LIVING, marker(start=900), True, True),
        (ENGINE, marker(start=901), False, False),
        (ENGINE, marker(start=899), False, False),
        (LIVING, marker(), False, True),
        (LIVING, marker(pid=None), False, True),
        (LIVING, marker(), True, False),  # its end is reported, and it lives
        (ENGINE, marker(), True, True),
        (LIVING, marker(uid=0, exe="/opt/engine"), True, True),
        (LIVING, marker(uid=0, comm="engine"), True, False),
        (LIVING, marker(exe="/opt/engine"), True, False),
        (ENGINE, marker(uid=1000), True, False),
        (ENGINE, marker(comm="shell"), False, False),
        (ENGINE, marker(comm="bash"), False, False),
        (ENGINE, marker(exe="/bin/sh"), False, False),
        (replace(ENGINE, comm="a-name-of-15-by"), marker(comm="a-name-of-15-bytes-and-more"), True, True),
    ],
)
def test_identity_reported_by_a_supervisor(seen: Identity, said: Marker, over: bool, believed: bool) -> None:
    """The start time alone counts if it is given; else nothing that is said may be wrong."""
    assert is_the_reported(seen, said, over=over) is believed


def test_identity_seen_outweighs_what_was_said() -> None:
    """The name in a core is a thread's; a claim that is confirmed is no claim any more."""
    writer = {"writer": "x"}
    said = marker(MarkerKind.CORE_FILE, 40, comm="worker-3", uid=1, doubtful=True, inner_pid=3, attributes=writer)
    found = with_identity(said, ENGINE)
    assert found == marker(
        MarkerKind.CORE_FILE, 41, 900, comm="engine", thread_comm="worker-3", uid=0, inner_pid=7, exe="/opt/engine",
        unit="engine.service", image="addresses",
        attributes={**writer, "mount_namespace": HOST_MOUNTS, "core_limit": "0"},
    )  # fmt: skip
    unknown = Identity(pid=41, tgid=41, comm="", start_ticks=None, parent=1, uid=None)
    kept = with_identity(msgspec.structs.replace(said, image="said"), unknown)
    assert (kept.comm, kept.uid, kept.inner_pid, kept.image, kept.attributes) == ("worker-3", 1, 3, "said", writer)


LINE = marker(MarkerKind.KERNEL_LOG, 42, thread=42, doubtful=True, comm="worker-3", attributes={"event": "segfault"})
CLAIM = marker(MarkerKind.CORE_FILE, 41, doubtful=True, uid=1000, comm="engine", core=core())
EXIT = marker(start=900, uid=0, comm="engine", signal=11)


@pytest.mark.parametrize(
    ("one", "other", "longest_s"),
    [
        (EXIT, marker(start=900, comm="x", unit="a", signal=6), LONGEST_DUMP_S),
        (EXIT, marker(start=900, image="i"), LONGEST_DUMP_S),
        (EXIT, marker(start=901), None),
        (EXIT, marker(signal=6), SAME_CRASH_S),  # sources may word what happened to one process differently
        (EXIT, marker(), SAME_CRASH_S),
        (EXIT, marker(comm="engine"), LONGEST_DUMP_S),
        (EXIT, marker(uid=1), None),
        (EXIT, marker(pid=42, start=900), None),
        (msgspec.structs.replace(EXIT, thread=42), LINE, SAME_CRASH_S),
        (msgspec.structs.replace(EXIT, thread=42, thread_comm="worker-3"), LINE, LONGEST_DUMP_S),
        (marker(pid=42), LINE, SAME_CRASH_S),
        (EXIT, LINE, None),
        # what an ordinary user claims
        (marker(uid=1000, comm="engine"), CLAIM, LONGEST_DUMP_S),
        (marker(uid=1000, comm="shell"), CLAIM, None),
        (marker(comm="engine"), CLAIM, None),
        (marker(comm="engine"), msgspec.structs.replace(CLAIM, uid=None), None),
        (EXIT, CLAIM, None),
        (marker(uid=1000, comm="engine", unit="a"), msgspec.structs.replace(CLAIM, unit="b"), None),
        # the process with those addresses in memory, whatever its number
        (
            marker(inner_pid=1, image="i", uid=0, core=core(1)),
            marker(pid=1, inner_pid=1, image="i", uid=1, doubtful=True, core=core(2)),
            LONGEST_DUMP_S,
        ),
        # two copies of a user's core
        (
            marker(inner_pid=1, image="i", uid=1, core=core(1, owner=1)),
            marker(inner_pid=1, image="i", uid=1, core=core(2, owner=1)),
            LONGEST_DUMP_S,
        ),
        (marker(inner_pid=1, image="i", uid=0), marker(pid=42, inner_pid=1, image="i", uid=0), None),
        # a forked child knows the addresses of the daemon that was its parent
        (
            marker(inner_pid=1, image="i", uid=0),
            marker(inner_pid=1, image="i", uid=1, doubtful=True, core=core(owner=1)),
            None,
        ),
        (marker(inner_pid=1, image="i", uid=0), marker(pid=2, inner_pid=2, image="i", uid=0, doubtful=True), None),
        (marker(image="i", uid=0), marker(pid=1, image="i", uid=0, doubtful=True), None),
        (marker(image="i", comm="a", uid=0), marker(image="j", comm="a", uid=0), None),
        (marker(image="i", comm="a", uid=0), marker(pid=1, comm="a", uid=0, doubtful=True), None),
        (marker(inner_pid=1, comm="a", uid=0), marker(pid=1, inner_pid=1, comm="a", uid=0, doubtful=True), None),
        # reports of units
        (marker(pid=None, unit="a", signal=11), marker(pid=None, unit="a", signal=11), None),
        (
            marker(pid=None, attributes={"INVOCATION_ID": "i"}),
            marker(pid=None, attributes={"MONITOR_INVOCATION_ID": "i"}),
            LONGEST_DUMP_S,
        ),
        (
            marker(pid=None, signal=6, attributes={"INVOCATION_ID": "i"}),
            marker(pid=None, exit_status=1, attributes={"INVOCATION_ID": "i"}),
            None,
        ),
        (marker(pid=None, attributes={"INVOCATION_ID": "i"}), marker(pid=None), None),
        # two cores are two crashes
        (marker(core=core(1)), marker(core=core(2)), None),
        # it started after the other was noticed
        (marker(noticed_ticks=899), EXIT, None),
        (marker(noticed_ticks=900), EXIT, SAME_CRASH_S),
        (marker(noticed_ticks=899), marker(), SAME_CRASH_S),
        (marker(noticed_ticks=901), EXIT, SAME_CRASH_S),
    ],
)  # fmt: skip
def test_identity_agreement(one: Marker, other: Marker, longest_s: float | None) -> None:
    """Two markers are one crash if they agree on what no third party can choose, for as long as a dump may take."""
    for pair in ((one, other), (other, one)):
        if longest_s is None:
            assert agreement(*pair) is None
        else:
            assert agreement(*pair) is not None
            assert agreement(*pair, apart_s=longest_s) is not None
            assert agreement(*pair, apart_s=longest_s + 0.1) is None


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (EXIT, marker(pid=None), None),
        (EXIT, LINE, None),  # a thread's number and name
        (EXIT, marker(pid=None, unit="b"), None),
        (msgspec.structs.replace(EXIT, unit="a"), marker(pid=None, unit="b"), "another unit"),
        (EXIT, marker(pid=None, signal=6), "another signal"),
        (EXIT, marker(pid=None, exit_status=1), "it ended otherwise"),
        (marker(exit_status=2), marker(pid=None, exit_status=1), "another exit status"),
        (EXIT, marker(pid=None, comm="shell"), "another name"),
        (EXIT, marker(pid=None, comm="shell", exe="/opt/engine"), None),
        (EXIT, marker(pid=None, uid=1), "another uid"),
        (EXIT, marker(pid=42), "another process"),
        (EXIT, marker(MarkerKind.KERNEL_LOG, 42), "another process"),  # the kernel has named the process itself
        (marker(uid=1000), msgspec.structs.replace(CLAIM, process=ProcessRef(pid=42)), "another process"),
    ],
)
def test_identity_contradiction(one: Marker, other: Marker, why: str | None) -> None:
    """What is unknown contradicts nothing."""
    assert contradiction(one, other) == contradiction(other, one) == why


@pytest.mark.parametrize(
    ("given", "about", "certain"),
    [
        (EXIT, True, True),
        (LINE, True, False),
        (CLAIM, True, True),  # a core is a crash, whosever
        (msgspec.structs.replace(CLAIM, core=None), True, False),
        (marker(MarkerKind.NOTIFICATION, None, unit="a"), True, False),
        (marker(MarkerKind.KERNEL_LOG, None, attributes={"event": "segfault"}), True, False),
        (marker(MarkerKind.KERNEL_LOG, None, attributes={"event": "io_error"}), False, False),
        (marker(MarkerKind.KERNEL_LOG, None, attributes={"event": "io_error"}, thread=42), True, False),
        (marker(MarkerKind.KERNEL_LOG, None, attributes={"event": "io_error"}, core=core()), True, True),
        (marker(MarkerKind.KERNEL_LOG, 41, attributes={"event": "hung_task"}), True, True),
        (marker(MarkerKind.PRESSURE, None), False, False),
    ],
)
def test_identity_tells_witnesses_from_events_of_the_machine(given: Marker, about: bool, certain: bool) -> None:
    """A disk that fails is no witness of a crash, even while one is collected."""
    assert (is_about_a_process(given), is_certain(given)) == (about, certain)
