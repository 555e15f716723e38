"""The gate's table: for each class and each term one sample that passes, and the change that makes it object."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from collector.model.pressure import (
    Budget,
    CgroupSample,
    Decision,
    DiskSample,
    Distress,
    GateLimits,
    NodeSample,
    Policy,
    Sample,
    Speed,
    StepClass,
    Term,
    Tick,
)
from collector.pressure.distress import History
from collector.pressure.gate import SPARE_BYTES, decide, hurry

MIB = 1 << 20
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"

# Recorded on a machine with 24 GiB, 23 of them in /dev/shm; a second NUMA node and a cgroup limit added.
CALM = Sample(
    taken_s=1000.0,
    total_bytes=24_000 * MIB,
    mem_available_bytes=400 * MIB,
    dirty_bytes=1 * MIB,
    writeback_bytes=1 * MIB,
    shmem_bytes=23_000 * MIB,
    nodes=(NodeSample(node=0, room_bytes=200 * MIB), NodeSample(node=1, room_bytes=90 * MIB)),
    cgroup=CgroupSample(used_bytes=60 * MIB, limit_bytes=192 * MIB),
    disk=DiskSample(free_bytes=80_000 * MIB, total_bytes=252_000 * MIB, is_memory=False),
)
LIGHT = Budget(step_class=StepClass.LIGHT, memory_bytes=1 * MIB)
DIRECT = Budget(step_class=StepClass.DIRECT, memory_bytes=1 * MIB, disk_bytes=100 * MIB)
CACHED = Budget(step_class=StepClass.CACHED, memory_bytes=1 * MIB)
HEAVY = Budget(step_class=StepClass.HEAVY, memory_bytes=64 * MIB)
CLASSES = (LIGHT, DIRECT, CACHED, HEAVY)
NO_FLOOR = GateLimits(floor_bytes=0, on_pressure=Policy.WAIT, wait_s=30.0)
FLOOR = msgspec.structs.replace(NO_FLOOR, floor_bytes=256 * MIB)
RESERVE = 12_600 * MIB


def changed(**fields: object) -> Sample:
    return msgspec.structs.replace(CALM, **fields)


def room(size: int) -> Sample:
    return changed(nodes=(NodeSample(node=0, room_bytes=size),), cgroup=None)


def ask(sample: Sample, budget: Budget, **arguments: object):
    given = {"limits": FLOOR if budget is HEAVY else NO_FLOOR, "reserve_bytes": RESERVE, **arguments}
    return decide(sample, budget=budget, **given)


SEVERE = changed(distress=Distress.SEVERE, distress_reason="allocstall rose by 190 in 3.0 s")
MILD = changed(distress=Distress.MILD, distress_reason="allocstall rose by 9 in 3.0 s")
UNSETTLED = changed(distress=Distress.UNSETTLED, distress_reason="allocstall rose by 1 in 5.0 s")
IN_MEMORY = changed(disk=DiskSample(free_bytes=80_000 * MIB, total_bytes=252_000 * MIB, is_memory=True))
FULL_DISK = changed(disk=DiskSample(free_bytes=12_599 * MIB, total_bytes=252_000 * MIB, is_memory=False))

FLIPS = [
    (LIGHT, Term.ROOM, room(9 * MIB - 1)),
    (LIGHT, Term.ROOM, changed(cgroup=CgroupSample(used_bytes=184 * MIB, limit_bytes=192 * MIB))),
    (LIGHT, Term.DISK_KIND, IN_MEMORY),
    (LIGHT, Term.DISK_SPACE, FULL_DISK),
    (DIRECT, Term.ROOM, room(9 * MIB - 1)),
    (DIRECT, Term.DISTRESS, SEVERE),
    (DIRECT, Term.DISK_KIND, IN_MEMORY),
    (DIRECT, Term.DISK_SPACE, FULL_DISK),
    (CACHED, Term.ROOM, room(9 * MIB - 1)),
    (CACHED, Term.DISTRESS, SEVERE),
    (CACHED, Term.DISTRESS, MILD),
    (CACHED, Term.DISTRESS, UNSETTLED),
    (CACHED, Term.DISK_KIND, IN_MEMORY),
    (CACHED, Term.DISK_SPACE, FULL_DISK),
    (HEAVY, Term.DISTRESS, SEVERE),
    (HEAVY, Term.DISTRESS, MILD),
    (HEAVY, Term.DISTRESS, UNSETTLED),
    (HEAVY, Term.FLOOR, changed(mem_available_bytes=(256 + 64 + 2) * MIB - 1)),
    (HEAVY, Term.FLOOR, changed(dirty_bytes=200 * MIB)),
    (HEAVY, Term.FLOOR, changed(writeback_bytes=200 * MIB)),
    (HEAVY, Term.CGROUP, changed(cgroup=CgroupSample(used_bytes=112 * MIB, limit_bytes=192 * MIB))),
    (HEAVY, Term.DISK_KIND, IN_MEMORY),
    (HEAVY, Term.DISK_SPACE, FULL_DISK),
]


@pytest.mark.parametrize("budget", CLASSES, ids=str)
def test_gate_proceeds_at_full_speed_when_every_term_agrees(budget: Budget) -> None:
    """A machine with 400 MiB left and nobody in distress collects everything."""
    verdict = ask(CALM, budget)
    assert verdict.disk_free_bytes == 80_000 * MIB
    assert (verdict.decision, verdict.speed, verdict.objections) == (Decision.PROCEED, Speed.FULL, ())
    assert verdict.reason == ""


@pytest.mark.parametrize(("budget", "term", "sample"), FLIPS)
def test_gate_objects_when_one_term_flips(budget: Budget, term: Term, sample: Sample) -> None:
    """Each term alone closes the gate for a class, and says so with its numbers."""
    verdict = ask(sample, budget)
    assert [objection.term for objection in verdict.objections] == [term]
    assert any(character.isdigit() for character in verdict.reason) or term is Term.DISK_KIND
    assert verdict.decision is not Decision.PROCEED


LIMIT_FLIPS = {
    "floor_bytes": (CALM, HEAVY, GateLimits(floor_bytes=1 << 40, on_pressure=Policy.SKIP, wait_s=0.0)),
    "on_pressure": (SEVERE, HEAVY, GateLimits(floor_bytes=0, on_pressure=Policy.PROCEED, wait_s=30.0)),
    "wait_s": (SEVERE, HEAVY, GateLimits(floor_bytes=0, on_pressure=Policy.WAIT, wait_s=0.0)),
}
"""For each limit, a case that it decides."""


def test_gate_obeys_every_limit() -> None:
    """A limit that is read and then ignored would be a promise to the operator."""
    assert LIMIT_FLIPS.keys() == set(GateLimits.__struct_fields__)
    for sample, budget, limits in LIMIT_FLIPS.values():
        assert ask(sample, budget, limits=limits).decision is not ask(sample, budget).decision


def test_gate_terms_are_tested_and_explained() -> None:
    """Each has a case above, and each message that docs/operations.md explains is one that the gate gives."""
    assert {term for _, term, _ in FLIPS} == set(Term)
    reasons = [ask(sample, budget).reason for budget, _, sample in FLIPS]
    stalled = History(Tick(taken_s=taken_s, allocstall=0, stalled_us=us) for taken_s, us in ((0.0, 0), (2.0, 200_000)))
    reasons.append(stalled.judge().reason)
    section = OPERATIONS.read_text(encoding="utf-8").partition("### The gate is closed")[2].partition("\n### ")[0]
    _, _, table = section.partition("| message | means |")
    messages = re.findall(r"`([^`|]*…[^`|]*)`", "".join(row.split("|")[1] for row in table.splitlines() if "|" in row))
    assert len(messages) >= 5
    for message in messages:
        words = max((part.strip() for part in message.split("…")), key=len)
        assert any(words in reason for reason in reasons), message


EDGES = [
    (LIGHT, room(9 * MIB)),
    (LIGHT, changed(cgroup=CgroupSample(used_bytes=183 * MIB, limit_bytes=192 * MIB))),
    (DIRECT, room(9 * MIB)),
    (CACHED, room(9 * MIB)),
    (CACHED, changed(mem_available_bytes=0)),  # no floor
    (HEAVY, changed(mem_available_bytes=(256 + 64 + 2) * MIB)),
    (HEAVY, room(0)),  # goes by what is available
    (HEAVY, changed(cgroup=CgroupSample(used_bytes=108 * MIB, limit_bytes=192 * MIB))),
    (HEAVY, changed(cgroup=CgroupSample(used_bytes=116 * MIB, limit_bytes=200 * MIB))),  # a tenth of it is left
    (LIGHT, changed(nodes=(NodeSample(node=0, room_bytes=4 * MIB), NodeSample(node=1, room_bytes=5 * MIB)))),
    (DIRECT, changed(disk=DiskSample(free_bytes=12_700 * MIB, total_bytes=252_000 * MIB, is_memory=False))),
]


@pytest.mark.parametrize(("budget", "sample"), EDGES)
def test_gate_allows_what_fits_exactly(budget: Budget, sample: Sample) -> None:
    """Exactly what must remain may remain."""
    assert ask(sample, budget).decision is Decision.PROCEED


@pytest.mark.parametrize("sample", [SEVERE, MILD, UNSETTLED, changed(mem_available_bytes=0, dirty_bytes=90 * MIB)])
def test_gate_reads_light_evidence_whatever_the_distress(sample: Sample) -> None:
    """It adds at most 3 MiB, and the evidence is gone a moment later."""
    assert ask(sample, LIGHT).decision is Decision.PROCEED


def test_gate_never_makes_light_evidence_wait() -> None:
    """Without room it is skipped immediately: other light steps need less."""
    assert ask(room(8 * MIB), LIGHT).decision is Decision.SKIP


def test_gate_holds_a_light_step_to_its_own_floor() -> None:
    """A light step that sets a floor may have to wait for it."""
    verdict = ask(changed(mem_available_bytes=250 * MIB), LIGHT, limits=FLOOR)
    assert [objection.term for objection in verdict.objections] == [Term.FLOOR]
    assert verdict.decision is Decision.WAIT


def test_gate_slows_bulk_down_in_mild_distress() -> None:
    """One writer, half the rate; the verdict says why though nothing objects."""
    verdict = ask(MILD, DIRECT)
    assert (verdict.decision, verdict.speed) == (Decision.PROCEED, Speed.HALF)
    assert verdict.reason == MILD.distress_reason
    assert ask(MILD, LIGHT).speed is Speed.FULL


def test_gate_gives_a_reason_only_for_what_it_does() -> None:
    """A reading that changes nothing is no reason; an objection is not also said to slow the step down."""
    unsettled = ask(UNSETTLED, DIRECT)
    assert (unsettled.speed, unsettled.slowed_by, unsettled.overridden) == (Speed.FULL, "", False)
    waiting = ask(SEVERE, DIRECT)
    assert (waiting.slowed_by, waiting.overridden, waiting.reason) == ("", False, SEVERE.distress_reason)
    assert ask(SEVERE, DIRECT, waited_s=30.0).slowed_by == ""


def test_gate_holds_bulk_in_severe_distress_until_calm() -> None:
    """Once held, it goes on only when calm, so that the gate does not flutter."""
    assert ask(SEVERE, DIRECT).decision is Decision.WAIT
    assert ask(MILD, DIRECT, held=True).decision is Decision.WAIT
    assert ask(UNSETTLED, DIRECT, held=True).decision is Decision.WAIT
    assert ask(CALM, DIRECT, held=True, waited_s=12.0).decision is Decision.PROCEED


def test_gate_lets_bulk_trickle_when_the_wait_is_over() -> None:
    """A trickle rather than nothing: it adds no memory per MiB."""
    verdict = ask(SEVERE, DIRECT, waited_s=30.0, held=True)
    assert (verdict.decision, verdict.speed, verdict.overridden) == (Decision.PROCEED, Speed.TRICKLE, True)
    assert ask(SEVERE, DIRECT, waited_s=29.9, held=True).decision is Decision.WAIT
    assert ask(SEVERE, DIRECT, waited_s=31.0, held=True).speed is Speed.TRICKLE
    assert ask(SEVERE, DIRECT, waited_s=30.0, limits=msgspec.structs.replace(FLOOR, floor_bytes=1 << 40)).decision is (
        Decision.SKIP
    )


def test_gate_skips_a_cached_step_when_the_wait_is_over() -> None:
    """What it would bring into the page cache, somebody in distress would have to reclaim."""
    assert ask(MILD, CACHED, waited_s=29.9).decision is Decision.WAIT
    assert ask(MILD, CACHED, waited_s=30.0).decision is Decision.SKIP


def test_gate_skips_bulk_without_room_when_the_wait_is_over() -> None:
    """Not even a trickle where the next allocation may invoke the OOM killer."""
    short = room(SPARE_BYTES)
    assert ask(short, DIRECT, waited_s=29.9).decision is Decision.WAIT
    assert ask(short, DIRECT, waited_s=30.0).decision is Decision.SKIP


def test_gate_skips_heavy_steps_when_the_wait_is_over() -> None:
    """What adds memory runs on a calm machine or not at all."""
    assert ask(MILD, HEAVY, waited_s=29.9).decision is Decision.WAIT
    assert ask(MILD, HEAVY, waited_s=30.0).decision is Decision.SKIP


def test_gate_never_counts_shared_memory_as_free() -> None:
    """`Cached` includes tmpfs: 23 GiB of it must not open the gate."""
    assert ask(changed(mem_available_bytes=100 * MIB), HEAVY).decision is Decision.WAIT
    assert ask(room(0), DIRECT).decision is Decision.WAIT


def test_gate_reason_names_what_is_short() -> None:
    """The nodes that count, or the collector's cgroup."""
    nodes = tuple(NodeSample(node=number, room_bytes=MIB) for number in (0, 3))
    assert "2.0 MiB are free before reclaim on NUMA nodes 0, 3" in ask(changed(nodes=nodes), LIGHT).reason
    assert "NUMA" not in ask(changed(nodes=nodes[:1], cgroup=None), LIGHT).reason
    group = CgroupSample(used_bytes=190 * MIB, limit_bytes=192 * MIB)
    assert "in the collector's cgroup, which uses 190.0 MiB of 192.0 MiB" in ask(changed(cgroup=group), LIGHT).reason


@pytest.mark.parametrize("sample", [IN_MEMORY, FULL_DISK])
@pytest.mark.parametrize("budget", CLASSES, ids=str)
def test_gate_skips_immediately_when_waiting_cannot_help(budget: Budget, sample: Sample) -> None:
    """No policy writes to tmpfs or below the reserve."""
    for policy in Policy:
        limits = msgspec.structs.replace(NO_FLOOR, on_pressure=policy)
        assert ask(sample, budget, limits=limits).decision is Decision.SKIP


@pytest.mark.parametrize("budget", [DIRECT, HEAVY], ids=str)
def test_gate_obeys_the_policy(budget: Budget) -> None:
    """`skip` does not wait; `proceed` goes on at half speed and is recorded as overridden."""
    limits = FLOOR if budget is HEAVY else NO_FLOOR
    skip = msgspec.structs.replace(limits, on_pressure=Policy.SKIP)
    assert ask(SEVERE, budget, limits=skip).decision is Decision.SKIP
    proceed = msgspec.structs.replace(limits, on_pressure=Policy.PROCEED)
    verdict = ask(SEVERE, budget, limits=proceed)
    assert (verdict.decision, verdict.speed, verdict.overridden) == (Decision.PROCEED, Speed.HALF, True)


def test_gate_reopens_above_the_floor_that_closed_it() -> None:
    """Hysteresis: a step that is held needs an eighth more than the floor, or the gate would flutter."""
    barely = changed(mem_available_bytes=(256 + 64 + 2 + 31) * MIB)
    assert ask(barely, HEAVY).decision is Decision.PROCEED
    assert ask(barely, HEAVY, held=True).decision is Decision.WAIT
    assert ask(changed(mem_available_bytes=(256 + 64 + 2 + 32) * MIB), HEAVY, held=True).decision is Decision.PROCEED


def test_gate_works_without_cgroup_and_disk() -> None:
    """A missing term neither objects nor approves."""
    bare = changed(cgroup=None, disk=None)
    assert all(ask(bare, budget).decision is Decision.PROCEED for budget in CLASSES)
    assert ask(msgspec.structs.replace(bare, nodes=()), DIRECT).decision is Decision.WAIT


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("short", [MILD, SEVERE, room(2 * MIB)], ids=["mild", "severe", "room"])
def test_memory_that_is_short_ends_a_hold_whatever_the_policy(short: Sample, policy: Policy) -> None:
    """The process that is held is the memory: what would slow a copy down lets it go."""
    limits = msgspec.structs.replace(NO_FLOOR, on_pressure=policy)
    verdict = ask(short, DIRECT, limits=limits)
    assert hurry(verdict) == verdict.reason != ""


@pytest.mark.parametrize("sample", [CALM, UNSETTLED, FULL_DISK, IN_MEMORY], ids=["calm", "unsettled", "full", "tmpfs"])
def test_only_memory_ends_a_hold(sample: Sample) -> None:
    assert hurry(ask(sample, DIRECT)) == ""


def test_floor_of_a_step_ends_a_hold() -> None:
    limits = msgspec.structs.replace(NO_FLOOR, floor_bytes=4096 * MIB)
    assert "floor" in hurry(ask(CALM, DIRECT, limits=limits))
