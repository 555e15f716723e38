"""What the sections `triggers` and `pipelines` are made of."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from collector.config.constrained import Deadline, Name, Signal
from collector.config.nodes import Mapping
from collector.model.diagnostics import Mark
from collector.model.pressure import Policy
from collector.model.units import Bytes, Seconds

REMOVED_PRESSURE = {
    "psi_full": "remove it: the gate goes by the stalls of the last seconds, which need no threshold of yours",
}
NO_OPTIONS = Mapping({}, Mark(""))


class StepPressure(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a step changes of `pressure`; what it leaves out stays as it is there.

    Args:
        floor: Available memory that must remain after this step's budget, of whatever class it is.
        on_pressure: ``wait``, ``skip`` or ``proceed``.
        wait: How long the incident may have waited, this step's wait included, until this step goes on or is skipped.
    """

    removed: ClassVar[dict[str, str]] = REMOVED_PRESSURE

    floor: Bytes | None = None
    on_pressure: Policy | None = None
    wait: Seconds | None = None


class When(msgspec.Struct, frozen=True, kw_only=True):
    """
    Conditions on what crashed; all that are given must hold. Lists hold alternatives.

    A marker that does not know what is asked for (a kernel log line has no unit) does not match.

    Args:
        comm: Globs for the command name (at most 15 characters, as the kernel keeps it).
        exe: Globs for the path of the executable.
        signal: Signals that killed the process, such as ``SIGSEGV`` or ``11``.
        trigger: Ids of triggers; ``manual`` is ``collector run --now``.
        unit: Globs for the systemd unit.
    """

    comm: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    signal: tuple[Signal, ...] = ()
    trigger: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """
    A source of markers. Beside these keys stand those of its *type*.

    Args:
        id: Unique among triggers.
        type: The kind of source.
        pipeline: What runs when it fires.
        enabled: ``false`` turns it off and leaves it in the file.
        replace: In a drop-in: take the place of the trigger of that id, instead of changing some of its keys.
    """

    rest: ClassVar[str] = "options"

    id: Name
    type: str
    pipeline: Name
    enabled: bool = True
    replace: bool = False
    options: Mapping = NO_OPTIONS


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """
    One use of a collector.

    Args:
        id: Unique in its pipeline; the name of the step's directory in the incident.
        collector: The kind of evidence.
        with: The collector's own options.
        timeout: Deadline; past it the step is killed and the incident goes on. The collector's own if left out.
        budget: Memory that the step may need at most, for the gate. The collector's own if left out.
        pressure: What this step changes of `pressure`.
        when: Run only for crashes that match.
        required: ``false`` if an incident is complete without this step: it is tried, and its end recorded,
            but ``run --now`` does not exit with 3 for it.
        enabled: ``false`` turns it off and leaves it in the file.
        replace: In a drop-in: take the place of the step of that id, instead of changing some of its keys.
    """

    id: Name
    collector: str
    with_: Mapping = msgspec.field(name="with", default=NO_OPTIONS)
    timeout: Deadline | None = None
    budget: Bytes | None = None
    pressure: StepPressure | None = None
    when: When = When()
    required: bool | None = None
    enabled: bool = True
    replace: bool = False


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """
    An ordered list of steps. Light ones are read first, then bulk is copied, each in the order of the list.

    Args:
        steps: The steps.
        timeout: An incident that takes longer is sealed with what it has; ``runtime.incident_timeout`` if left out.
        replace: In a drop-in: take the place of the pipeline of that name, instead of changing some of its steps.
    """

    removed: ClassVar[dict[str, str]] = {
        "let_smaller_first": "remove it: light steps are read first, whatever waits",
    }

    steps: tuple[Step, ...]
    timeout: Deadline | None = None
    replace: bool = False
