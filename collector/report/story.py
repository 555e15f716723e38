"""
What an archived incident tells a person: the facts of its screen, its page and its export.

Every text is escaped and bounded; what is not known is empty or ``None``. As JSON, times are UTC in ISO 8601.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from collector.report.traces import Backtraces


class Subject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom the incident is about: a process, a unit, or, if all is empty, the machine."""

    comm: str = ""
    pid: int | None = None
    exe: str = ""
    unit: str = ""
    uid: int | None = None


class Cause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    How it ended, and why as far as that is known.

    *said* is the sentence for the head of a screen, never empty; *kind* is the diagnosis's, as ``core.json`` has it;
    *result* is systemd's, of its unit.
    """

    said: str
    kind: str = ""
    diagnosis: str = ""
    signal: str = ""
    code: str = ""
    address: str = ""
    exit_status: int | None = None
    event: str = ""
    result: str = ""


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the kernel's log or of the journal; *matters*: it is the one about this crash."""

    at: datetime | None
    text: str
    who: str = ""
    priority: int | None = None
    matters: bool = False


class MemoryThen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The machine's memory at the crash, and *before_s* earlier; bytes, and stalls in percent of the time.

    *shm_bytes* is in ``/dev/shm``; where no recorder knows, *shared_bytes* is in any shared memory.
    """

    available_bytes: int
    total_bytes: int = 0
    shm_bytes: int | None = None
    shared_bytes: int | None = None
    stalled_percent: float | None = None
    before_s: float | None = None
    before_bytes: int | None = None


class KeptSegment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A segment of the crashed process; *artifact* is its path in the incident, empty if it was not taken."""

    name: str
    size_bytes: int
    artifact: str = ""
    why: str = ""


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the incident holds; *core* is the artifact's path, empty if there is none."""

    files: int
    size_bytes: int
    core: str = ""
    core_bytes: int = 0
    core_content: str = ""
    segments: tuple[KeptSegment, ...] = ()


class Missing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step without all of its evidence; *optional*: the incident is complete even so."""

    step: str
    status: str
    reason: str
    optional: bool = False


class Repeats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    How often the same happened: *count* incidents with this one, and crashes that were *recorded* only.

    They are *at_least* so many if further ones of its user were counted without a row of their own.
    """

    by: str
    key: str
    count: int
    number: int
    first: datetime | None
    last: datetime | None
    recorded: int = 0
    at_least: bool = False

    @property
    def others(self) -> str:
        """Say how many were recorded only, if any."""
        return f"{'at least ' * self.at_least}{self.recorded} more recorded only" if self.recorded else ""


class Witness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who reported it, and what."""

    trigger: str
    at: datetime | None
    said: str
    doubtful: bool = False


class ToldHandover(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What became of handing the incident over: *state* is ``waiting``, ``done`` or ``failed``.

    *output* is the end of what the program printed at the last of its *tries*.
    """

    state: str
    tries: int = 0
    at: datetime | None = None
    exit_status: int | None = None
    reason: str = ""
    output: str = ""


class Story(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    An incident as a person reads it.

    *over_budget* says which budget was exceeded, so that the steps of *left_out* were not tried.
    *limits* are those of its cgroups that were met, a sentence each. *writing_bytes*: of the files that are being
    written, if it is under way. *gap_s* is how long nobody collected, if it was cut off and continued. *labels* are the
    machine's; *handover* is ``None`` if it is not to be handed over.
    """

    id: str
    state: str
    path: str
    pipeline: str
    at: datetime | None
    ended: datetime | None
    host: str
    kernel: str
    subject: Subject
    cause: Cause
    kept: Kept
    owner: str = ""
    over_budget: str = ""
    left_out: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    machine_id: str = ""
    boot_id: str = ""
    handover: ToldHandover | None = None
    gap_s: float | None = None
    trace: Backtraces | None = None
    threads: int = 0
    signature: str = ""
    signature_of: str = ""
    crash_key: str = ""
    build_id: str = ""
    said: tuple[LogLine, ...] = ()
    kernel_lines: tuple[LogLine, ...] = ()
    limits: tuple[str, ...] = ()
    memory: MemoryThen | None = None
    missing: tuple[Missing, ...] = ()
    witnesses: tuple[Witness, ...] = ()
    repeats: Repeats | None = None
    next: tuple[str, ...] = ()
    writing_bytes: int = 0
