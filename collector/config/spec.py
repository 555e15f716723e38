"""
The YAML file as types: the one description of every key that is not a collector's or a trigger's own.

Sizes are bytes, durations seconds, once loaded; the file may write them with units (`collector.model.units`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from collector.model.copying import Digest, MethodChoice
from collector.model.pressure import Policy
from collector.model.redaction import Redaction
from collector.model.units import Bytes, Percent, Rate, Reserve, Seconds


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sealed incidents stay; the oldest go first."""

    count: int | None = 50
    age: Seconds | None = Seconds(14 * 86_400)
    size: Bytes | None = Bytes(200 << 30)


class Archive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where incidents go."""

    path: str = "/var/lib/collector"
    reserve: Reserve = Reserve(percent=5.0)
    keep: Keep = Keep()


class Pressure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to leave the machine alone."""

    floor: Bytes = Bytes(512 << 20)
    psi_full: Percent = Percent(5)
    on_pressure: Policy = Policy.WAIT
    wait: Seconds = Seconds(30)


class StepPressure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a step overrides of `Pressure`."""

    floor: Bytes | None = None
    psi_full: Percent | None = None
    on_pressure: Policy | None = None
    wait: Seconds | None = None


class Copy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The copy engine."""

    method: MethodChoice = MethodChoice.AUTO
    rate: Rate = Rate("adaptive")
    chunk: Bytes = Bytes(1 << 20)
    writers: int = 2
    digest: Digest = Digest.NONE


class Runtime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The daemon's own life."""

    directory: str = "/run/collector"
    workers: int = 2
    incident_timeout: Seconds = Seconds(1800)


class Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configured source of markers; *type* names a registry entry, the rest are its own fields."""

    id: str
    type: str
    pipeline: str
    options: dict[str, Any] = {}


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configured use of a collector; ``with`` holds the collector's own fields."""

    id: str
    collector: str
    timeout: Seconds | None = None
    pressure: StepPressure | None = None
    with_: dict[str, Any] = msgspec.field(name="with", default_factory=dict)


class Pipeline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An ordered list of steps."""

    steps: list[Step]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    version: int
    archive: Archive = Archive()
    pressure: Pressure = Pressure()
    copy: Copy = Copy()
    redact: Redaction = Redaction()
    runtime: Runtime = Runtime()
    triggers: list[Trigger] = []
    pipelines: dict[str, Pipeline] = {}
