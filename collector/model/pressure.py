"""What the gate sees, what it may be told, and what it answers."""

from __future__ import annotations

import enum

import msgspec


class StepClass(enum.StrEnum):
    """
    What a step adds to the machine beyond what the workers already hold.

    *light*: text of ``/proc`` and small files; at most its declared footprint. *direct*: bulk past the page cache,
    through buffers that are there already. *heavy*: whatever forks, goes through the page cache, or grows.
    """

    LIGHT = "light"
    DIRECT = "direct"
    HEAVY = "heavy"


class Distress(enum.StrEnum):
    """
    How hard processes struggle for memory right now; `pressure.distress` has the thresholds.

    *unsettled* is neither: no longer *mild*, not *calm* for long enough.
    """

    CALM = "calm"
    UNSETTLED = "unsettled"
    MILD = "mild"
    SEVERE = "severe"


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """
    One reading of the counters that tell distress.

    *taken_s* is monotonic; *allocstall* counts since boot; *stalled_us* is PSI memory ``some total``, ``None``
    without PSI.
    """

    taken_s: float
    allocstall: int
    stalled_us: int | None = None


class NodeSample(msgspec.Struct, frozen=True, kw_only=True):
    """One NUMA node that this process may allocate from: bytes that can be had before reclaim, as `Sample` has it."""

    node: int
    room_bytes: int


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

    *distress* is how the last seconds were, *distress_reason* says so with its numbers.

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
        """What can be had without writing anything back first; far from zero while tmpfs can still be reclaimed."""
        return max(0, self.mem_available_bytes - self.dirty_bytes - self.writeback_bytes)

    @property
    def room_bytes(self) -> int:
        """What can be had before anybody must reclaim: of the machine, and of the own cgroup."""
        machine = sum(node.room_bytes for node in self.nodes)
        if self.cgroup is None:
            return machine
        return min(machine, max(0, self.cgroup.limit_bytes - self.cgroup.used_bytes))


class Policy(enum.StrEnum):
    """What to do with a step while the gate is closed."""

    WAIT = "wait"
    SKIP = "skip"
    PROCEED = "proceed"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a step is held to.

    *floor_bytes*: available memory that must remain after the step's budget; 0 for none.
    *wait_s*: how long an incident waits in all while `Policy.WAIT` holds its steps back.
    """

    floor_bytes: int
    on_pressure: Policy
    wait_s: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a step adds: its class, memory at most, and space in the archive where it is known beforehand."""

    step_class: StepClass
    memory_bytes: int
    disk_bytes: int = 0


class Decision(enum.StrEnum):
    """The gate's answer."""

    PROCEED = "proceed"
    WAIT = "wait"
    SKIP = "skip"


class Speed(enum.StrEnum):
    """How fast bulk may be copied: *half* is one writer with pauses, *trickle* a few MiB a second."""

    FULL = "full"
    HALF = "half"
    TRICKLE = "trickle"


class Term(enum.StrEnum):
    """The gate's terms, in the order in which they are asked."""

    ROOM = "room"
    DISTRESS = "distress"
    FLOOR = "floor"
    CGROUP = "cgroup"
    DISK_KIND = "disk_kind"
    DISK_SPACE = "disk_space"


class Objection(msgspec.Struct, frozen=True):
    """One term that said no, a `Term` or one of an earlier release, and a sentence with its numbers."""

    term: str
    said: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The gate's answer and the numbers it rested on; no objections means that every term agreed.

    *overridden*: there were objections and the step goes on all the same, by the policy ``proceed`` or because the
    incident's wait was used up; *speed* is then how fast. *waited_s* is what the incident had used up of its wait.
    Earlier releases knew no class, distress or room.
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
        """All objections in one line; else why it is slower than it could be."""
        return "; ".join(objection.said for objection in self.objections) or self.slowed_by


class SpeedChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change that the gate made to a copy under way: seconds after its start, what it said, and why."""

    after_s: float
    advice: str
    reason: str = ""
