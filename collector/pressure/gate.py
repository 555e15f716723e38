"""
The gate: may this step run now?

It considers distress, and what a step adds to what the workers already hold. A floor of hundreds of MiB protects
nobody from a program that adds almost nothing, and loses the evidence on exactly the machines that this program is for
(docs/decisions/0051). A pure function of its arguments; `sampler` does the reading. Each term either has no objection
or states it in one sentence with its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from collector.model.pressure import (
    Budget,
    Decision,
    Distress,
    GateLimits,
    Objection,
    Policy,
    Sample,
    Speed,
    StepClass,
    Term,
    Verdict,
)
from collector.model.units import mib

SPARE_BYTES = 8 << 20
"""What must be left in addition to a step's need. Light steps did no harm from 399 down to 4 MiB of MemAvailable."""

CGROUP_HEADROOM = 0.10
"""Share of the collector's cgroup limit that a heavy step must leave; above it ``memory.high`` already throttles."""

HYSTERESIS = 0.125
HYSTERESIS_BYTES = 128 << 20
"""A closed gate reopens only this far above the floor, whichever is less; otherwise it would flutter."""

LASTING = frozenset({Term.DISK_KIND, Term.DISK_SPACE})
"""Objections that waiting does not resolve."""


def decide(
    sample: Sample,
    *,
    budget: Budget,
    limits: GateLimits,
    reserve_bytes: int = 0,
    waited_s: float = 0.0,
    held: bool = False,
) -> Verdict:
    """
    Decide whether a step may run now.

    Args:
        sample: The machine now, and its distress in the last seconds.
        budget: What the step adds.
        limits: The step's floor and policy.
        reserve_bytes: Free space that the archive's file system must keep.
        waited_s: How long this incident has waited so far, all steps together.
        held: The gate is closed for this step, and reopens only with some margin.

    Returns:
        PROCEED; WAIT if waiting may help and the policy still allows it; else SKIP. A light step without its own
        floor never waits. A direct step whose wait is over proceeds at a trickle, if there is room for it.
    """
    floor = int(limits.floor_bytes)
    if held:
        floor += min(int(floor * HYSTERESIS), HYSTERESIS_BYTES)
    objections = (
        *_room(sample, budget),
        *_distress(sample, budget, held=held),
        *_floor(sample, budget, floor),
        *_cgroup(sample, budget),
        *_disk(sample, budget, reserve_bytes),
    )
    if objections:
        decision, speed = _apply_policy({objection.term for objection in objections}, budget, limits, waited_s)
    else:
        slow = budget.step_class is StepClass.DIRECT and sample.distress is Distress.MILD
        decision, speed = Decision.PROCEED, Speed.HALF if slow else Speed.FULL
    return Verdict(
        decision=decision,
        step_class=budget.step_class,
        distress=sample.distress,
        room_bytes=sample.room_bytes,
        available_bytes=sample.available_bytes,
        budget_bytes=budget.memory_bytes,
        floor_bytes=floor,
        speed=speed,
        objections=objections,
        slowed_by=sample.distress_reason if speed is not Speed.FULL and not objections else "",
        disk_free_bytes=sample.disk.free_bytes if sample.disk else None,
        waited_s=round(waited_s, 3),
        overridden=decision is Decision.PROCEED and bool(objections),
    )


def hurry(verdict: Verdict) -> str:
    """
    Return why a crashed process must not be held for its dump; empty if it may be.

    On a machine that is short of memory the process *is* the memory, and its death the cure. So whatever would slow a
    copy down for memory, or pause it, ends the hold, whatever the step's policy; only a disk may use it up.
    """
    short = (objection.said for objection in verdict.objections if objection.term not in LASTING)
    return "; ".join(short) or verdict.slowed_by


def _apply_policy(terms: set[str], budget: Budget, limits: GateLimits, waited_s: float) -> tuple[Decision, Speed]:
    if terms & LASTING:
        return Decision.SKIP, Speed.FULL  # even `proceed` must not fill the disk, and tmpfs is the memory it would save
    if limits.on_pressure is Policy.PROCEED:
        return Decision.PROCEED, Speed.HALF
    never_waits = budget.step_class is StepClass.LIGHT and not limits.floor_bytes
    if limits.on_pressure is Policy.SKIP or never_waits:
        return Decision.SKIP, Speed.FULL
    if waited_s < limits.wait_s:
        return Decision.WAIT, Speed.FULL
    if budget.step_class is StepClass.DIRECT and terms == {Term.DISTRESS}:
        return Decision.PROCEED, Speed.TRICKLE
    return Decision.SKIP, Speed.FULL


def _room(sample: Sample, budget: Budget) -> Iterator[Objection]:
    if budget.step_class is StepClass.HEAVY:
        return
    need = budget.memory_bytes + SPARE_BYTES
    if sample.room_bytes < need:
        yield Objection(
            Term.ROOM,
            f"{mib(sample.room_bytes)} are free before reclaim{_where(sample)}; the step needs"
            f" {mib(budget.memory_bytes)}, and {mib(SPARE_BYTES)} must stay",
        )


def _where(sample: Sample) -> str:
    """Return which nodes count if there are several, and whether the collector's cgroup is what is short."""
    machine = sum(node.room_bytes for node in sample.nodes)
    group = sample.cgroup
    if group is not None and sample.room_bytes < machine:
        return f" in the collector's cgroup, which uses {mib(group.used_bytes)} of {mib(group.limit_bytes)}"
    if len(sample.nodes) > 1:
        return " on NUMA nodes " + ", ".join(str(node.node) for node in sample.nodes)
    return ""


def _distress(sample: Sample, budget: Budget, *, held: bool) -> Iterator[Objection]:
    """Bulk stops in severe distress until it is calm; what adds memory or cache needs calm from the start."""
    stops = {
        StepClass.LIGHT: False,
        StepClass.DIRECT: sample.distress is Distress.SEVERE or (held and sample.distress is not Distress.CALM),
        StepClass.CACHED: sample.distress is not Distress.CALM,
        StepClass.HEAVY: sample.distress is not Distress.CALM,
    }
    if stops[budget.step_class]:
        yield Objection(Term.DISTRESS, sample.distress_reason)


def _floor(sample: Sample, budget: Budget, floor: int) -> Iterator[Objection]:
    if floor and sample.available_bytes - budget.memory_bytes < floor:
        yield Objection(
            Term.FLOOR,
            f"{mib(sample.available_bytes)} available less {mib(budget.memory_bytes)} for the step"
            f" is below the floor of {mib(floor)}",
        )


def _cgroup(sample: Sample, budget: Budget) -> Iterator[Objection]:
    group = sample.cgroup
    if group is None or budget.step_class is not StepClass.HEAVY:
        return
    headroom = group.limit_bytes - group.used_bytes - budget.memory_bytes
    if headroom < group.limit_bytes * CGROUP_HEADROOM:
        yield Objection(
            Term.CGROUP,
            f"the collector's cgroup uses {mib(group.used_bytes)} of {mib(group.limit_bytes)};"
            f" the step's {mib(budget.memory_bytes)} would leave less than {CGROUP_HEADROOM:.0%}",
        )


def _disk(sample: Sample, budget: Budget, reserve_bytes: int) -> Iterator[Objection]:
    disk = sample.disk
    if disk is None:
        return
    if disk.is_memory:
        yield Objection(Term.DISK_KIND, "the archive is on tmpfs: writing there takes the memory that is short")
    if disk.free_bytes - budget.disk_bytes < reserve_bytes:
        yield Objection(
            Term.DISK_SPACE,
            f"the archive's disk has {mib(disk.free_bytes)} free;"
            f" {mib(budget.disk_bytes)} more would go below its reserve of {mib(reserve_bytes)}",
        )
