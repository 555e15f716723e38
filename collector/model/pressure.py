"""What the gate sees, what it may be told, and what it answers."""

from __future__ import annotations

import enum

import msgspec


class NodeSample(msgspec.Struct, frozen=True, kw_only=True):
    """Reclaimable memory of one NUMA node, in bytes."""

    node: int
    available_bytes: int
    high_watermark_bytes: int


class CgroupSample(msgspec.Struct, frozen=True, kw_only=True):
    """
    The own cgroup's memory: what cannot be dropped at once, and the nearest limit above it.

    *limit_bytes* is the least of ``memory.high`` and ``memory.max`` up the tree (v2), or
    ``hierarchical_memory_limit`` (v1).
    """

    used_bytes: int
    limit_bytes: int


class DiskSample(msgspec.Struct, frozen=True, kw_only=True):
    """The file system of the archive, in bytes."""

    free_bytes: int
    total_bytes: int
    is_memory: bool


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """
    One reading of the machine's memory. Bytes and monotonic seconds; ``None``: not on this kernel.

    Source: Documentation/filesystems/proc.rst (meminfo, zoneinfo, vmstat),
    Documentation/accounting/psi.rst.
    """

    taken_s: float
    total_bytes: int
    free_bytes: int
    mem_available_bytes: int
    dirty_bytes: int
    writeback_bytes: int
    shmem_bytes: int
    cached_bytes: int
    high_watermark_bytes: int
    allocstall: int
    pgscan_direct: int
    psi_full_avg10_percent: float | None = None
    nodes: tuple[NodeSample, ...] = ()
    cgroup: CgroupSample | None = None
    disk: DiskSample | None = None

    @property
    def available_bytes(self) -> int:
        """What can be had without writing anything back first."""
        return max(0, self.mem_available_bytes - self.dirty_bytes - self.writeback_bytes)


class Policy(enum.StrEnum):
    """What to do with a step while the gate is closed."""

    WAIT = "wait"
    SKIP = "skip"
    PROCEED = "proceed"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """
    What must remain untouched.

    *floor_bytes*: available memory that must remain after the step's own budget.
    *psi_full_percent*: highest tolerated PSI memory ``full avg10``.
    *wait_s*: how long `Policy.WAIT` waits before it skips.
    """

    floor_bytes: int
    psi_full_percent: float
    on_pressure: Policy
    wait_s: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a step may use at most: memory, and space in the archive where it is known beforehand."""

    memory_bytes: int
    disk_bytes: int = 0


class Decision(enum.StrEnum):
    """The gate's answer."""

    PROCEED = "proceed"
    WAIT = "wait"
    SKIP = "skip"


class Term(enum.StrEnum):
    """The gate's terms, in the order in which they are asked."""

    FLOOR = "floor"
    RECLAIM = "reclaim"
    PSI = "psi"
    CGROUP = "cgroup"
    NODE = "node"
    DISK_KIND = "disk_kind"
    DISK_SPACE = "disk_space"


class Objection(msgspec.Struct, frozen=True):
    """One term that said no, and a sentence with its numbers."""

    term: Term
    said: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The gate's answer and the numbers it rested on; no objections means that every term agreed.

    *overridden*: the policy was ``proceed`` and there were objections.
    """

    decision: Decision
    available_bytes: int
    budget_bytes: int
    floor_bytes: int
    objections: tuple[Objection, ...] = ()
    psi_full_avg10_percent: float | None = None
    disk_free_bytes: int | None = None
    waited_s: float = 0.0
    overridden: bool = False

    @property
    def reason(self) -> str:
        """All objections in one line."""
        return "; ".join(objection.said for objection in self.objections)
