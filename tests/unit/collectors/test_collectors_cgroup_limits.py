"""What a cgroup's files say of its limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collectors.cgroup.limits import events_of, limits_of

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
    assert memory.sentence() == "/a: 100 of 200 bytes allowed by memory.limit_in_bytes, failcnt 5"
    assert (huge.share, huge.at_limit, huge.events) == (1.0, True, {"failcnt": 1})


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
