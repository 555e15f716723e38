"""What the gate reads, how it is configured, and what it answers."""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from collector.model.units import Bytes, Seconds


class StepClass(enum.StrEnum):
    """
    What a step adds to what the workers already hold.

    *light*: text of ``/proc`` and small files, within its declared footprint. *direct*: bulk past the page cache,
    through existing buffers. *cached*: pieces of files on a disk, a few MiB through the page cache, dropped from it
    afterwards. *heavy*: what forks, goes through the page cache, or grows.
    """

    LIGHT = "light"
    DIRECT = "direct"
    CACHED = "cached"
    HEAVY = "heavy"


class Distress(enum.StrEnum):
    """
    How hard processes are struggling for memory; `pressure.distress` has the thresholds.

    *unsettled*: no longer *mild*, but not calm for long enough.
    """

    CALM = "calm"
    UNSETTLED = "unsettled"
    MILD = "mild"
    SEVERE = "severe"


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """
    One reading of the counters of distress.

    *taken_s* is monotonic; *allocstall* counts since boot; *stalled_us* is PSI memory ``some total``, ``None``
    without PSI.
    """

    taken_s: float
    allocstall: int
    stalled_us: int | None = None


class NodeSample(msgspec.Struct, frozen=True, kw_only=True):
    """A NUMA node that this process may allocate from, and the bytes free on it before reclaim."""

    node: int
    room_bytes: int


class CgroupSample(msgspec.Struct, frozen=True, kw_only=True):
    """
    Memory of the collector's cgroup: what cannot be dropped immediately, and the nearest limit above it.

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

    *distress* is that of the last seconds, *distress_reason* gives its numbers.

    Source: Documentation/filesystems/proc.rst (meminfo, zoneinfo, vmstat),
    Documentation/accounting/psi.rst.
    """

    taken_s: float
    total_bytes: int
    mem_available_bytes: int
    dirty_bytes: int
    writeback_bytes: int
    shmem_bytes: int
    nodes: tuple[NodeSample, ...]
    distress: Distress = Distress.CALM
    distress_reason: str = ""
    cgroup: CgroupSample | None = None
    disk: DiskSample | None = None

    @property
    def available_bytes(self) -> int:
        """What is available without writing anything back first."""
        return max(0, self.mem_available_bytes - self.dirty_bytes - self.writeback_bytes)

    @property
    def room_bytes(self) -> int:
        """What is free before anybody must reclaim: on the machine and in the collector's cgroup."""
        machine = sum(node.room_bytes for node in self.nodes)
        if self.cgroup is None:
            return machine
        return min(machine, max(0, self.cgroup.limit_bytes - self.cgroup.used_bytes))


class Policy(enum.StrEnum):
    """What to do with a step while the gate is closed."""

    WAIT = "wait"
    SKIP = "skip"
    PROCEED = "proceed"


class GateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """
    When to leave the machine alone.

    Args:
        floor_bytes: Available memory (MemAvailable less Dirty and Writeback) that must remain after a step's budget.
            The floor of the section `pressure` applies to heavy steps only (commands, and copies through the page
            cache): others add almost nothing and go by distress. One in `defaults` or a step applies to any class.
        on_pressure: What to do with a step while the gate is closed: ``wait``, ``skip``, or ``proceed`` and record
            that the gate was overridden.
        wait_s: How long an incident may wait, all of its steps together. After that, heavy and cached steps are skipped
            and copies go on at a trickle.
    """

    removed: ClassVar[dict[str, str]] = {
        "psi_full": "remove it: the gate goes by the stalls of the last seconds and needs no threshold",
    }

    floor_bytes: Bytes = msgspec.field(name="floor", default=Bytes(256 << 20))
    on_pressure: Policy = Policy.WAIT
    wait_s: Seconds = msgspec.field(name="wait", default=Seconds(30.0))


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a step adds: its class, maximum memory, and space in the archive if known beforehand."""

    step_class: StepClass
    memory_bytes: int
    disk_bytes: int = 0


class Decision(enum.StrEnum):
    """The gate's answer."""

    PROCEED = "proceed"
    WAIT = "wait"
    SKIP = "skip"


class Speed(enum.StrEnum):
    """How fast bulk may be copied: *half* is one writer with pauses, *trickle* a few MiB per second."""

    FULL = "full"
    HALF = "half"
    TRICKLE = "trickle"


class Term(enum.StrEnum):
    """The gate's terms, in the order of evaluation."""

    ROOM = "room"
    DISTRESS = "distress"
    FLOOR = "floor"
    CGROUP = "cgroup"
    DISK_KIND = "disk_kind"
    DISK_SPACE = "disk_space"


class Objection(msgspec.Struct, frozen=True):
    """A term that objects (a `Term`, or one of an earlier release), and a sentence with its numbers."""

    term: str
    said: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The gate's answer and the numbers behind it; without objections every term agreed.

    *overridden*: the step goes on despite objections, by the policy ``proceed`` or because the incident's wait was
    over; *speed* is then how fast. *waited_s* is how long the incident had waited. Earlier releases had no class,
    distress or room.
    """

    decision: Decision
    step_class: StepClass | None = None
    distress: Distress | None = None
    room_bytes: int | None = None
    available_bytes: int
    budget_bytes: int
    floor_bytes: int = 0
    speed: Speed = Speed.FULL
    objections: tuple[Objection, ...] = ()
    slowed_by: str = ""
    disk_free_bytes: int | None = None
    waited_s: float = 0.0
    overridden: bool = False

    @property
    def reason(self) -> str:
        """All objections in one line; without any, why it is slowed down."""
        return "; ".join(objection.said for objection in self.objections) or self.slowed_by


class SpeedChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the gate made to a copy in progress: seconds after its start, its advice, and the reason."""

    after_s: float
    advice: str
    reason: str = ""
