"""The gate's table: for each term one sample that passes, and the change that makes it object."""

from __future__ import annotations

import msgspec
import pytest

from collector.model.pressure import (
    Budget,
    CgroupSample,
    Decision,
    DiskSample,
    Limits,
    NodeSample,
    Policy,
    Sample,
    Term,
)
from collector.pressure.gate import decide

MIB = 1 << 20

# Recorded on a machine with 24 GiB, 22 of them in /dev/shm; two NUMA nodes and a cgroup limit added.
CALM = Sample(
    taken_s=1000.0,
    total_bytes=25_275_523_072,
    free_bytes=1_201 * MIB,
    mem_available_bytes=1_500 * MIB,
    dirty_bytes=2 * MIB,
    writeback_bytes=0,
    shmem_bytes=22_528 * MIB,
    cached_bytes=22_900 * MIB,
    high_watermark_bytes=100 * MIB,
    allocstall=17,
    pgscan_direct=4_242,
    psi_full_avg10_percent=0.12,
    nodes=(
        NodeSample(node=0, available_bytes=900 * MIB, high_watermark_bytes=50 * MIB),
        NodeSample(node=1, available_bytes=600 * MIB, high_watermark_bytes=50 * MIB),
    ),
    cgroup=CgroupSample(used_bytes=60 * MIB, limit_bytes=256 * MIB),
    disk=DiskSample(free_bytes=80_000 * MIB, total_bytes=252_000 * MIB, is_memory=False),
)
BEFORE = msgspec.structs.replace(CALM, taken_s=999.0)
LIMITS = Limits(floor_bytes=512 * MIB, psi_full_percent=5.0, on_pressure=Policy.WAIT, wait_s=30.0)
BUDGET = Budget(memory_bytes=16 * MIB, disk_bytes=100 * MIB)
RESERVE = 12_600 * MIB


def changed(**fields: object) -> Sample:
    return msgspec.structs.replace(CALM, **fields)


def ask(sample: Sample, **arguments: object):
    given = {"budget": BUDGET, "limits": LIMITS, "reserve_bytes": RESERVE, **arguments}
    return decide(sample, given.pop("previous", BEFORE), **given)


FLIPS = [
    (Term.FLOOR, changed(mem_available_bytes=520 * MIB)),
    (Term.FLOOR, changed(dirty_bytes=980 * MIB)),
    (Term.FLOOR, changed(writeback_bytes=980 * MIB)),
    (Term.FLOOR, changed(high_watermark_bytes=750 * MIB)),
    (Term.RECLAIM, changed(allocstall=18)),
    (Term.RECLAIM, changed(pgscan_direct=4_243)),
    (Term.PSI, changed(psi_full_avg10_percent=5.01)),
    (Term.CGROUP, changed(cgroup=CgroupSample(used_bytes=220 * MIB, limit_bytes=256 * MIB))),
    (Term.NODE, changed(nodes=(NodeSample(node=1, available_bytes=99 * MIB, high_watermark_bytes=50 * MIB),))),
    (Term.DISK_KIND, changed(disk=DiskSample(free_bytes=80_000 * MIB, total_bytes=252_000 * MIB, is_memory=True))),
    (Term.DISK_SPACE, changed(disk=DiskSample(free_bytes=12_650 * MIB, total_bytes=252_000 * MIB, is_memory=False))),
]


def test_gate_proceeds_when_every_term_agrees() -> None:
    """A calm machine collects."""
    verdict = ask(CALM)
    assert verdict.decision is Decision.PROCEED
    assert verdict.objections == ()


@pytest.mark.parametrize(("term", "sample"), FLIPS)
def test_gate_objects_when_one_term_flips(term: Term, sample: Sample) -> None:
    """Each term alone closes the gate, and says so with its numbers."""
    verdict = ask(sample)
    assert [objection.term for objection in verdict.objections] == [term]
    assert any(character.isdigit() for character in verdict.reason) or term is Term.DISK_KIND
    assert verdict.decision is not Decision.PROCEED


def test_gate_never_counts_shared_memory_as_free() -> None:
    """`Cached` includes tmpfs: 22 GiB of it must not open the gate."""
    assert ask(changed(mem_available_bytes=100 * MIB)).decision is Decision.WAIT


def test_gate_floor_counts_the_budget() -> None:
    """The floor must remain after the step, not before it."""
    tight = changed(mem_available_bytes=530 * MIB)  # less 2 MiB dirty: exactly floor + budget
    assert ask(tight).decision is Decision.PROCEED
    assert ask(tight, budget=Budget(memory_bytes=17 * MIB)).decision is Decision.WAIT


@pytest.mark.parametrize("disk", [term for term in FLIPS if term[0] in {Term.DISK_KIND, Term.DISK_SPACE}])
def test_gate_skips_at_once_when_waiting_cannot_help(disk: tuple[Term, Sample]) -> None:
    """No policy writes to tmpfs or below the reserve."""
    for policy in Policy:
        limits = msgspec.structs.replace(LIMITS, on_pressure=policy)
        assert ask(disk[1], limits=limits).decision is Decision.SKIP


def test_gate_waits_and_then_skips() -> None:
    """`wait` has an end."""
    short = FLIPS[0][1]
    assert ask(short, waited_s=29.9).decision is Decision.WAIT
    assert ask(short, waited_s=30.0).decision is Decision.SKIP


def test_gate_obeys_the_policy() -> None:
    """`skip` does not wait; `proceed` goes on and is recorded as overridden."""
    short = FLIPS[0][1]
    assert ask(short, limits=msgspec.structs.replace(LIMITS, on_pressure=Policy.SKIP)).decision is Decision.SKIP
    verdict = ask(short, limits=msgspec.structs.replace(LIMITS, on_pressure=Policy.PROCEED))
    assert verdict.decision is Decision.PROCEED
    assert verdict.overridden


def test_gate_ignores_reclaim_counters_of_another_time() -> None:
    """A stall an hour ago says nothing about now."""
    old = msgspec.structs.replace(BEFORE, taken_s=CALM.taken_s - 3600, allocstall=0)
    assert ask(CALM, previous=old).decision is Decision.PROCEED
    assert ask(CALM, previous=None).decision is Decision.PROCEED


def test_gate_opens_later_than_it_closes() -> None:
    """Hysteresis: a step that waits needs an eighth more than the floor, or the gate would flutter."""
    barely = changed(mem_available_bytes=540 * MIB)
    assert ask(barely).decision is Decision.PROCEED
    assert ask(barely, waited_s=1.0).decision is Decision.WAIT
    assert ask(changed(mem_available_bytes=600 * MIB), waited_s=1.0).decision is Decision.PROCEED


def test_gate_works_without_psi_cgroup_nodes_and_disk() -> None:
    """What a kernel does not offer vetoes nothing and approves nothing."""
    bare = changed(psi_full_avg10_percent=None, cgroup=None, nodes=(), disk=None)
    assert ask(bare).decision is Decision.PROCEED
    assert ask(msgspec.structs.replace(bare, mem_available_bytes=0)).decision is Decision.WAIT
