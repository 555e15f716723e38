"""
The gate: may this step run now?

A pure function of its arguments; `sampler` does the reading. A term either has no objection or
says in one sentence, with its numbers, why not.
"""

from __future__ import annotations

from collections.abc import Iterator

from collector.model.pressure import Budget, Decision, Limits, Objection, Policy, Sample, Term, Verdict
from collector.model.units import mib

RECENT_S = 10.0
"""Reclaim counters are compared with a sample at most so old: an hour-old stall vetoes nothing."""

CGROUP_HEADROOM = 0.10
"""Share of the own cgroup's limit that must stay free; above it ``memory.high`` already throttles."""

HYSTERESIS = 0.125
HYSTERESIS_BYTES = 128 << 20
"""A gate that closed opens again only so much above the floor, or it would flutter: the lesser of the two."""

LASTING = frozenset({Term.DISK_KIND, Term.DISK_SPACE})
"""Objections that waiting does not cure."""


def floor_bytes(sample: Sample, limits: Limits) -> int:
    """
    Return the memory that must remain: the configured floor, or twice the zones' high watermarks.

    Below the high watermark kswapd is awake; twice of it leaves it asleep after the step.
    """
    return max(limits.floor_bytes, 2 * sample.high_watermark_bytes)


def decide(
    sample: Sample,
    previous: Sample | None,
    *,
    budget: Budget,
    limits: Limits,
    reserve_bytes: int = 0,
    waited_s: float = 0.0,
) -> Verdict:
    """
    Decide on a step.

    Args:
        sample: The machine now.
        previous: An earlier sample, for the reclaim counters; ignored if older than `RECENT_S`.
        budget: What the step may use.
        limits: What must remain.
        reserve_bytes: Free space that the archive's file system must keep.
        waited_s: How long this step has waited already; > 0 turns hysteresis on.

    Returns:
        PROCEED; WAIT if waiting may help and the policy still allows it; else SKIP.
    """
    floor = floor_bytes(sample, limits)
    if waited_s > 0:
        floor += min(int(floor * HYSTERESIS), HYSTERESIS_BYTES)
    objections = (
        *_memory(sample, budget, floor),
        *_reclaim(sample, previous),
        *_psi(sample, limits),
        *_cgroup(sample, budget),
        *_nodes(sample),
        *_disk(sample, budget, reserve_bytes),
    )
    decision = _apply_policy(objections, limits, waited_s)
    return Verdict(
        decision=decision,
        available_bytes=sample.available_bytes,
        budget_bytes=budget.memory_bytes,
        floor_bytes=floor,
        objections=objections,
        psi_full_avg10_percent=sample.psi_full_avg10_percent,
        disk_free_bytes=sample.disk.free_bytes if sample.disk else None,
        waited_s=round(waited_s, 3),
        overridden=decision is Decision.PROCEED and bool(objections),
    )


def _apply_policy(objections: tuple[Objection, ...], limits: Limits, waited_s: float) -> Decision:
    if not objections:
        return Decision.PROCEED
    if any(objection.term in LASTING for objection in objections):
        return Decision.SKIP  # even `proceed` must not fill the disk, and tmpfs is the memory it would save
    if limits.on_pressure is Policy.PROCEED:
        return Decision.PROCEED
    if limits.on_pressure is Policy.WAIT and waited_s < limits.wait_s:
        return Decision.WAIT
    return Decision.SKIP


def _memory(sample: Sample, budget: Budget, floor: int) -> Iterator[Objection]:
    left = sample.available_bytes - budget.memory_bytes
    if left < floor:
        yield Objection(
            Term.FLOOR,
            f"{mib(sample.available_bytes)} available less {mib(budget.memory_bytes)} for the step"
            f" is below the floor of {mib(floor)}",
        )


def _reclaim(sample: Sample, previous: Sample | None) -> Iterator[Objection]:
    if previous is None or sample.taken_s - previous.taken_s > RECENT_S:
        return
    for name, now, then in (
        ("allocstall", sample.allocstall, previous.allocstall),
        ("pgscan_direct", sample.pgscan_direct, previous.pgscan_direct),
    ):
        if now > then:
            seconds = sample.taken_s - previous.taken_s
            yield Objection(Term.RECLAIM, f"{name} rose by {now - then} in {seconds:.1f} s: processes reclaim by hand")


def _psi(sample: Sample, limits: Limits) -> Iterator[Objection]:
    psi = sample.psi_full_avg10_percent
    if psi is not None and psi > limits.psi_full_percent:
        yield Objection(Term.PSI, f"memory full avg10 is {psi:.2f} %, above {limits.psi_full_percent:.2f} %")


def _cgroup(sample: Sample, budget: Budget) -> Iterator[Objection]:
    group = sample.cgroup
    if group is None:
        return
    headroom = group.limit_bytes - group.used_bytes - budget.memory_bytes
    if headroom < group.limit_bytes * CGROUP_HEADROOM:
        yield Objection(
            Term.CGROUP,
            f"own cgroup uses {mib(group.used_bytes)} of {mib(group.limit_bytes)};"
            f" the step's {mib(budget.memory_bytes)} would leave less than {CGROUP_HEADROOM:.0%}",
        )


def _nodes(sample: Sample) -> Iterator[Objection]:
    for node in sample.nodes:
        if node.available_bytes < 2 * node.high_watermark_bytes:
            yield Objection(
                Term.NODE,
                f"NUMA node {node.node} has {mib(node.available_bytes)} available,"
                f" below twice its high watermark of {mib(node.high_watermark_bytes)}",
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
