"""
The YAML file as types: the one description of every key that is not a collector's or a trigger's own.

Loaded, sizes are bytes and durations seconds; the file writes them with units (`collector.model.units`).
The JSON Schema and the reference page are made from these types and their docstrings.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from collector.config.constrained import Count, Deadline, Directory, Name
from collector.config.items import REMOVED_PRESSURE, Pipeline, StepPressure, Trigger
from collector.config.nodes import Mapping
from collector.config.runtime import Runtime, Storm
from collector.model.copying import CopySettings, Digest, MethodChoice
from collector.model.pressure import Policy
from collector.model.redaction import Redaction
from collector.model.units import Bytes, Rate, Reserve, Seconds, rate_setting

ARCHIVE_PATH = "/var/lib/collector"


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which archived incidents stay. The oldest go first, until every bound holds; ``null`` lifts a bound.

    Args:
        count: So many incidents at most.
        age: Incidents older than this go, within a day; the newest always stays.
        size: All incidents together take so much space at most.
    """

    count: Count | None = 50
    # The bounds catch a missing unit: `age: 14` would be 14 seconds, `size: 200` 200 bytes.
    age: Annotated[Seconds, msgspec.Meta(ge=3600.0)] | None = Seconds(14 * 86_400.0)
    size: Annotated[Bytes, msgspec.Meta(ge=1 << 20)] | None = Bytes(200 << 30)


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where incidents go.

    Args:
        path: The directory that holds them, on a disk and never on tmpfs. Without root, the default
            becomes ``$XDG_STATE_HOME/collector``.
        reserve: Free space of the file system that is never touched: a share or a size.
        keep: Which incidents stay.
    """

    path: Directory = ARCHIVE_PATH
    reserve: Reserve = Reserve(percent=5.0)
    keep: Keep = Keep()


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """
    When to leave the machine alone.

    Args:
        floor: Available memory (MemAvailable less Dirty and Writeback) that must remain after the budget of a heavy
            step: a command, or a copy through the page cache. Others add next to nothing, and go by distress.
        on_pressure: What becomes of a step while the gate is closed: ``wait``, ``skip`` at once, or ``proceed`` and
            record that the gate was overridden.
        wait: How long an incident waits at most, for all of its steps. Then heavy steps are skipped, and copies go on
            at a trickle.
    """

    removed: ClassVar[dict[str, str]] = REMOVED_PRESSURE

    floor: Bytes = Bytes(256 << 20)
    on_pressure: Policy = Policy.WAIT
    wait: Seconds = Seconds(30.0)


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """
    How bulk data is copied.

    Args:
        method: ``splice`` (least CPU: the pages themselves are handed over), ``mmap`` (written from a
            mapping), ``bounce`` (digest computed on the bytes that are written), or ``auto``, which
            decides and records why.
        rate: ``adaptive`` yields to other writers of the disk, ``max`` does not; a size per second
            such as ``200MiB/s`` is an upper bound, below which it yields as ``adaptive`` does.
        chunk: Length of one write, cut to 4 MiB for all writers together. Longer chunks make other
            writers of the disk wait longer.
        writers: Writes under way at the same time.
        digest: Digest computed beside a copy: ``none`` leaves it to sealing.
    """

    method: MethodChoice = MethodChoice.AUTO
    rate: Rate = Rate("adaptive")
    chunk: Annotated[Bytes, msgspec.Meta(ge=64 << 10, le=4 << 20)] = Bytes(1 << 20)
    writers: Annotated[int, msgspec.Meta(ge=1, le=4)] = 2
    digest: Digest = Digest.NONE

    def settings(self) -> CopySettings:
        """Return the same as the copy engine takes it."""
        return CopySettings(
            method=self.method,
            rate=rate_setting(self.rate),
            chunk_bytes=self.chunk,
            writers=self.writers,
            digest=self.digest,
        )


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """
    What all steps share unless they say otherwise.

    Args:
        timeout: Deadline of steps that set none.
        required: Whether an incident is incomplete without steps that do not say.
        pressure: What steps change of `pressure`; a step's own keys win.
        with: Options per collector, by its name; a step's own options win.
    """

    timeout: Deadline | None = None
    required: bool = True
    pressure: StepPressure | None = None
    with_: dict[str, Mapping] = msgspec.field(name="with", default_factory=dict)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """
    The whole file.

    Args:
        version: Version of this language: 1.
        archive: Where incidents go, and how long they stay.
        pressure: When to leave the machine alone.
        copy: How bulk data is copied.
        redact: What is hidden in environments and command lines.
        runtime: The daemon's own life.
        storm: What a flood of crashes may cost.
        defaults: What all steps share unless they say otherwise.
        triggers: Sources of markers: what counts as a crash.
        pipelines: What to collect, by name. ``collector run --now`` runs the one named ``crash``
            unless ``--pipeline`` names another.
    """

    version: Literal[1]
    archive: Archive = Archive()
    pressure: Pressure = Pressure()
    copy: Copy = Copy()
    redact: Redaction = Redaction()
    runtime: Runtime = Runtime()
    storm: Storm = Storm()
    defaults: Defaults = Defaults()
    triggers: tuple[Trigger, ...] = ()
    pipelines: dict[Name, Pipeline] = {}
