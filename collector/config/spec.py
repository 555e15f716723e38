"""
The YAML file as types: the one description of every key that is not a collector's or a trigger's own.

Loaded, sizes are bytes and durations seconds; the file writes them with units (`collector.model.units`).
A field whose name says its unit (``wait_s``) gives the key's name (``wait``) to `msgspec.field`.
The JSON Schema and the reference page are made from these types and their docstrings.
"""

from __future__ import annotations

import inspect
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec

from collector.config.nodes import MappingNode
from collector.model.budgets import StormSettings
from collector.model.conditions import Conditions
from collector.model.constrained import Deadline, Directory, LabelName, LabelText, Name
from collector.model.copying import CopySettings
from collector.model.diagnostics import Mark
from collector.model.handover import HandoverSettings
from collector.model.pressure import GateLimits
from collector.model.recording import RecorderSettings
from collector.model.redaction import Redaction
from collector.model.retention import RetentionRules
from collector.model.units import Bytes, Reserve, Seconds

ARCHIVE_PATH = "/var/lib/collector"
RUNTIME_DIRECTORY = "/run/collector"
NO_OPTIONS = MappingNode({}, Mark(""))

S = TypeVar("S", bound=msgspec.Struct)


def override_of(cls: type[msgspec.Struct], summary: str) -> type[msgspec.Struct]:
    """Return a type with the keys of *cls*, all of them optional: ``None`` changes nothing."""
    fields = [
        (field.name, field.type | None, msgspec.field(name=field.encode_name, default=None))
        for field in msgspec.structs.fields(cls)
    ]
    arguments = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2]
    namespace = {"__doc__": f"{summary}\n\nArgs:\n{arguments}", "removed": getattr(cls, "removed", {})}
    return msgspec.defstruct(f"{cls.__name__}Override", fields, namespace=namespace, frozen=True, kw_only=True)


def overridden(base: S, *overrides: msgspec.Struct | None) -> S:
    """Return *base* as *overrides* change it; later ones win."""
    changes = [msgspec.structs.asdict(override) for override in overrides if override is not None]
    given = {name: value for change in changes for name, value in change.items() if value is not None}
    return msgspec.structs.replace(base, **given)


GateOverride: Any = override_of(GateLimits, "What to change of `pressure`; keys left out stay as they are there.")


class ArchiveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where incidents go.

    Args:
        path: The directory that holds them, on a disk and never on tmpfs. Without root, the default
            becomes ``$XDG_STATE_HOME/collector``.
        reserve: Free space of the file system that is never used: a share or a size. Copies of a user's
            crash leave more: a quarter of the archive's space for root and the configured units, and half of
            the rest for others.
        keep: Which incidents stay.
        group: Members of this group may ask the daemon for the list of incidents, without reasons and command
            lines; empty: nobody may. The files stay their owner's.
    """

    path: Directory = ARCHIVE_PATH
    reserve: Reserve = Reserve(percent=5.0)
    keep: RetentionRules = RetentionRules()
    group: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_.-]{0,31})?$")] = ""


class RuntimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The daemon and its workers.

    Args:
        directory: Sockets and locks, mode 0700, or 0710 with ``archive.group``. The default becomes
            ``$RUNTIME_DIRECTORY`` where systemd sets it, and ``$XDG_RUNTIME_DIR/collector`` without root.
        workers: Processes kept warm: one runs a step, the others take over when it hangs.
        nice: Niceness of workers, except while they read light evidence.
        io_class: I/O class of workers, likewise: ``idle``, ``best-effort`` or ``none`` (unchanged). Only a hint:
            the ``none`` scheduler of NVMe disks ignores it.
        incident_timeout_s: An incident that takes longer is sealed as it is.
        stop_grace_s: How long a stop by hand waits for the incidents under way to finish. What has not by then is
            continued by the next start. A shutdown of the machine, and a second SIGTERM, seal at once.
        reload_on_change: Reload the configuration when its files change.
    """

    directory: Directory = RUNTIME_DIRECTORY
    workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    io_class: Literal["idle", "best-effort", "none"] = msgspec.field(name="ionice", default="idle")
    incident_timeout_s: Deadline = msgspec.field(name="incident_timeout", default=Seconds(1800.0))
    stop_grace_s: Seconds = msgspec.field(name="stop_grace", default=Seconds(120.0))
    reload_on_change: bool = False


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the daemon tells Prometheus; `collector metrics` prints the same.

    Args:
        textfile: Where the daemon writes its metrics every 15 s, for node_exporter's textfile collector
            (``/var/lib/prometheus/node-exporter/collector.prom``), mode 0644; empty: nowhere. The directory must
            exist, and root be able to write to it by its permissions.
    """

    textfile: Annotated[str, msgspec.Meta(pattern=r"^(/.*[^/]\.prom)?$")] = ""


class TriggerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """
    A source of markers. Keys of its *type* stand beside these.

    Args:
        id: Unique among triggers.
        type: The kind of source.
        pipeline: What runs when it fires.
        enabled: ``false`` turns it off and leaves it in the file.
        replace: In a drop-in: replace the trigger with that id entirely, instead of changing some of its keys.
    """

    rest: ClassVar[str] = "options"

    id: Name
    type: str
    pipeline: Name
    enabled: bool = True
    replace: bool = False
    options: MappingNode = NO_OPTIONS


class StepSpec(msgspec.Struct, frozen=True, kw_only=True):
    """
    One use of a collector.

    Args:
        id: Unique in its pipeline; the name of the step's directory in the incident.
        collector: The kind of evidence.
        with: The collector's own options.
        timeout: Deadline; after it the step is killed and the incident goes on. Default: the collector's own.
        budget: Maximum memory that the step may need, for the gate. Default: the collector's own.
        pressure: What this step changes of `pressure`.
        when: Run only for crashes that match.
        required: ``false`` if an incident is complete without this step: it is tried, and its end recorded,
            but ``run --now`` does not exit with 3 for it.
        enabled: ``false`` turns it off and leaves it in the file.
        replace: In a drop-in: replace the step with that id entirely, instead of changing some of its keys.
    """

    id: Name
    collector: str
    with_: MappingNode = msgspec.field(name="with", default=NO_OPTIONS)
    timeout: Deadline | None = None
    budget: Bytes | None = None
    pressure: GateOverride | None = None
    when: Conditions = Conditions()
    required: bool | None = None
    enabled: bool = True
    replace: bool = False


class PipelineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """
    An ordered list of steps. Light ones are read first, then bulk is copied, each in the order of the list.

    Args:
        timeout: An incident that takes longer is sealed as it is. Default: ``runtime.incident_timeout``.
        steps: The steps.
        replace: In a drop-in: replace the pipeline of that name entirely, instead of changing some of its steps.
    """

    removed: ClassVar[dict[str, str]] = {
        "let_smaller_first": "remove it: light steps are always read first",
    }

    timeout: Deadline | None = None
    steps: tuple[StepSpec, ...]
    replace: bool = False


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """
    What all steps share unless they say otherwise.

    Args:
        timeout: Deadline of steps that set none.
        required: Whether an incident is incomplete without a step that does not say.
        pressure: What steps change of `pressure`; a step's own keys win.
        with: Options per collector, by its name; a step's own options win.
    """

    timeout: Deadline | None = None
    required: bool = True
    pressure: GateOverride | None = None
    with_: dict[str, MappingNode] = msgspec.field(name="with", default_factory=dict)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """
    The whole file.

    Args:
        version: Version of this language: 1.
        archive: Where incidents go, and how long they stay.
        pressure: When to leave the machine alone.
        copy: How bulk data is copied.
        redact: What is hidden in environments and command lines.
        runtime: The daemon and its workers.
        recorder: What is kept of the last minutes, for each incident.
        metrics: What the daemon tells Prometheus.
        storm: What a flood of crashes may cost.
        labels: What each incident says of this machine, by name: its data center, its role. At most 32.
        on_archived: What runs for each incident once it is archived.
        defaults: What all steps share unless they say otherwise.
        triggers: Sources of markers: what counts as a crash.
        pipelines: What to collect, by name. ``collector run --now`` runs the one named ``crash``
            unless ``--pipeline`` names another.
    """

    version: Literal[1]
    archive: ArchiveSettings = ArchiveSettings()
    pressure: GateLimits = GateLimits()
    copy: CopySettings = CopySettings()
    redact: Redaction = Redaction()
    runtime: RuntimeSettings = RuntimeSettings()
    recorder: RecorderSettings = RecorderSettings()
    metrics: MetricsSettings = MetricsSettings()
    storm: StormSettings = StormSettings()
    labels: dict[LabelName, LabelText] = {}
    on_archived: HandoverSettings = HandoverSettings()
    defaults: Defaults = Defaults()
    triggers: tuple[TriggerSpec, ...] = ()
    pipelines: dict[Name, PipelineSpec] = {}
