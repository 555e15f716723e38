"""What a cgroup's files say of its limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collectors.cgroup.limits import events_of, limits_of, refused_forks

V2 = {
    "memory.current": b"1048576\n",
    "memory.max": b"max\n",
    "memory.high": b"1052672\n",
    "memory.events": b"low 0\nhigh 9\nmax 0\noom 0\noom_kill 2\noom_group_kill 0\n",
    "pids.current": b"7\n",
    "pids.max": b"100\n",
    "pids.events": b"max 0\n",
    "hugetlb.2MB.current": b"2097152\n",
    "hugetlb.2MB.max": b"2097152\n",
    "hugetlb.2MB.events": b"max 3\n",
}


def test_limits_of_v2_are_compared_with_what_is_used() -> None:
    """Each limit has its own events: kills belong to the maximum, which is not set here."""
    found = {one.name: one for one in limits_of("v2/0", "/a", V2)}
    assert found.keys() == {"memory.high", "pids.max", "hugetlb.2MB.max"}
    assert (found["memory.high"].events, found["memory.high"].at_limit) == ({"high": 9}, True)
    assert (found["pids.max"].events, found["pids.max"].share, found["pids.max"].at_limit) == ({}, 0.07, False)
    assert found["hugetlb.2MB.max"].events == {"max": 3}


def test_limits_go_by_local_events_where_the_kernel_has_them() -> None:
    """Those without count the cgroups below, whose limits are others."""
    files = V2 | {"memory.events.local": b"high 0\nmax 0\n"}
    assert {one.name: one.events for one in limits_of("v2/0", "/a", files)}["memory.high"] == {}


def test_limits_of_v1_are_read_from_single_numbers() -> None:
    """No limit is the largest page-aligned number."""
    files = {
        "memory.usage_in_bytes": b"100\n",
        "memory.limit_in_bytes": b"200\n",
        "memory.max_usage_in_bytes": b"180\n",
        "memory.failcnt": b"5\n",
        "memory.memsw.usage_in_bytes": b"100\n",
        "memory.memsw.limit_in_bytes": b"9223372036854771712\n",
        "hugetlb.1GB.usage_in_bytes": b"0\n",
        "hugetlb.1GB.limit_in_bytes": b"0\n",
        "hugetlb.1GB.failcnt": b"1\n",
    }
    memory, huge = limits_of("v1/memory/0", "/a", files)
    assert (memory.limit, memory.used, memory.peak, memory.share, memory.events) == (200, 100, 180, 0.5, {"failcnt": 5})
    assert memory.sentence() == "/a: 100 of 200 bytes allowed by memory.limit_in_bytes, peak 180, failcnt 5"
    assert (huge.share, huge.at_limit, huge.events) == (1.0, True, {"failcnt": 1})


@pytest.mark.parametrize(
    ("limit", "used", "events", "met"),
    [
        ("memory.max", "memory.current", b"max 0\noom 0\noom_kill 1\noom_group_kill 1\n", {}),
        ("memory.max", "memory.current", b"max 7\noom 1\noom_kill 1\n", {"max": 7, "oom": 1, "oom_kill": 1}),
        ("memory.swap.max", "memory.swap.current", b"high 0\nmax 0\nfail 12\n", {}),
        ("memory.swap.max", "memory.swap.current", b"high 0\nmax 3\nfail 12\n", {"max": 3, "fail": 12}),
    ],
)
def test_limits_are_met_only_by_events_of_their_own(limit: str, used: str, events: bytes, met: dict[str, int]) -> None:
    """A process is also killed for a limit above or a machine without memory; swap also fails where there is none."""
    name = "memory.events.local" if limit == "memory.max" else "memory.swap.events"
    found = limits_of("v2/0", "/a", {limit: b"2147483648\n", used: b"1000\n", name: events})
    assert [one.events for one in found] == [met]


@pytest.mark.parametrize(("used", "share", "at_limit"), [(b"0\n", 0.0, False), (b"4096\n", 1.0, True)])
def test_limits_of_nothing_are_met_by_use(used: bytes, share: float, at_limit: bool) -> None:
    """Kubernetes forbids swap and huge pages to every pod: those that want none have met no limit."""
    found = tuple(limits_of("v2/0", "/a", {"memory.swap.max": b"0\n", "memory.swap.current": used}))
    assert [(one.share, one.at_limit) for one in found] == [(share, at_limit)]


def test_refused_forks_are_no_limits_own_unless_the_kernel_says_so() -> None:
    """On v1, and before 6.11, the counter is that of the cgroup in which the fork failed."""
    files = {"pids.max": b"1000\n", "pids.current": b"5\n", "pids.events": b"max 12\n"}
    assert [one.events for one in limits_of("v2/0", "/a", files)] == [{}]
    assert refused_forks("/a", files) == "/a: 12 forks refused by pids.max of this cgroup or of one above it"
    local = files | {"pids.events.local": b"max 3\n"}
    assert [one.events for one in limits_of("v2/0", "/a", local)] == [{"max": 3}]
    assert refused_forks("/a", local) is None
    assert refused_forks("/a", {}) is None


@pytest.mark.parametrize(
    ("name", "text", "events"),
    [
        (
            "cpu.stat",
            b"usage_usec 5\nnr_periods 2\nnr_throttled 1\nthrottled_usec 9\n",
            {"nr_throttled": 1, "throttled_usec": 9},
        ),
        ("memory.oom_control", b"oom_kill_disable 1\nunder_oom 0\noom_kill 3\n", {"oom_kill": 3}),
        ("pids.events", b"max 4\n", {"max": 4}),
        ("memory.failcnt", b"0\n", {}),
    ],
)
def test_events_are_what_counts_and_is_not_zero(name: str, text: bytes, events: dict[str, int]) -> None:
    """Some files hold more than events."""
    assert events_of(name, text) == events


@given(st.dictionaries(st.sampled_from(sorted(V2)), st.binary(max_size=40)))
def test_limits_of_anything_are_numbers(files: dict[str, bytes]) -> None:
    """Another kernel's files may look otherwise."""
    assert all(one.limit >= 0 and one.used >= 0 for one in limits_of("v2/0", "/a", files))
