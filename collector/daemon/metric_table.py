"""
Every metric: its name, type, labels, and what it counts. The text and docs/metrics.md are made from this table.

Names follow https://prometheus.io/docs/practices/naming: base units, ``_total`` for what only grows. No label has a
value that a user of the machine chooses: triggers, pipelines and steps are the configuration's, all else fixed words.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

PREFIX = "crash_collector_"
"""Not ``collector_``: node_exporter has metrics and a label of that name."""


class MetricKind(enum.StrEnum):
    """What a metric's value means; a counter begins at 0 when the daemon starts, unless its help says otherwise."""

    COUNTER = "counter"
    GAUGE = "gauge"
    SUMMARY = "summary"


class Metric(NamedTuple):
    """One metric; *name* is without the prefix, *help* one line."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()


_C, _G, _S = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.SUMMARY
_STEP = ("step", "collector")

METRICS = (
    Metric("build_info", _G, "1; the label is the version that runs.", ("version",)),
    Metric("start_time_seconds", _G, "When the daemon was started, since the epoch."),
    Metric(
        "config_info", _G, "1; the label is the beginning of the hash of the configuration in force with its drop-ins.",
        ("hash",),
    ),
    Metric("config_generation", _G, "Configurations that were in force since the start; 1 until the first reload."),
    Metric("config_loaded_timestamp_seconds", _G, "When the configuration in force was loaded, since the epoch."),
    Metric(
        "config_last_reload_successful", _G,
        "0 if the last reload was refused: the configuration before it is still in force.",
    ),
    Metric("config_keys_after_restart", _G, "Keys whose values in the file take effect when the daemon is restarted."),
    Metric("drained", _G, "1 after `collector drain`: crashes are recorded, and wait for a restart or `drain --off`."),
    Metric("trigger_watching", _G, "1 if the trigger sees all that it should, 0 if it is degraded.", ("trigger",)),
    Metric(
        "markers_total", _C,
        "Markers (pieces of evidence of a crash) by what became of them, each counted once it is decided; the trigger"
        " `manual` is `collector run`.",
        ("trigger", "fate"),
    ),
    Metric("markers_lost_total", _C, "Markers that a trigger's source has lost. Kept across restarts.", ("trigger",)),
    Metric(
        "ledger_markers", _G,
        "All markers ever recorded, by what has become of them so far; from the ledger, across restarts.", ("fate",),
    ),
    Metric("ledger_on_disk", _G, "0 while markers are kept in memory because the ledger's file does not work."),
    Metric(
        "limits_reached_total", _C, "How often something was left out because a limit was reached, of all owners.",
        ("limit",),
    ),
    Metric("crashes_waiting", _G, "Crashes that wait for their turn or for a budget."),
    Metric("processes_held", _G, "Crashed processes that the kernel holds now for their evidence to be read."),
    Metric("processes_held_total", _C, "Crashed processes that the kernel held."),
    Metric(
        "holds_refused_total", _C, "Those of them that were let go before anything of their dump was read.",
    ),
    Metric("incidents_running", _G, "Incidents under way."),
    Metric(
        "incidents_total", _C,
        "Archived incidents by how complete they are; the pipeline is empty for what a start sealed of an earlier run.",
        ("pipeline", "state"),
    ),
    Metric(
        "incidents_over_budget_total", _C,
        "Those that had only the steps of `storm.over_budget`, because a budget was exceeded.",
    ),
    Metric(
        "incidents_continued_total", _C,
        "Incidents that an earlier run of the daemon had begun, and that this one goes on with.",
    ),
    Metric("incidents_failed_total", _C, "Incidents of which nothing could be archived.", ("pipeline",)),
    Metric(
        "incident_duration_seconds", _S,
        "From the beginning of an incident until it was archived; for a continued one, since this run took it up.",
    ),
    Metric("incidents_pruned_total", _C, "Incidents that retention has deleted."),
    Metric("archived_bytes_total", _C, "Bytes of evidence archived."),
    Metric(
        "last_incident_timestamp_seconds", _G,
        "When the last incident was archived, since the epoch; 0 if never. Kept across restarts.",
    ),
    Metric("last_success_timestamp_seconds", _G, "Likewise, the last one that is complete."),
    Metric(
        "handovers_waiting", _G,
        "Incidents that the program of `on_archived` is still to be run for; the daemon knows of 256 at a time.",
    ),
    Metric(
        "handovers_total", _C,
        "Incidents that the program has taken over (`done`), or that were given up after the last try (`failed`).",
        ("state",),
    ),
    Metric("handover_tries_failed_total", _C, "Runs of the program that failed, or could not be begun."),
    Metric(
        "cores_removed_total", _C, "Archived cores that `remove` or `size` of a trigger has deleted.", ("trigger",)
    ),
    Metric("cores_removed_bytes_total", _C, "The space that they took on disk.", ("trigger",)),
    Metric("step_duration_seconds", _S, "From a step's start to its end.", _STEP),
    Metric("step_ends_total", _C, "Steps that ended, by how.", (*_STEP, "status")),
    Metric("gate_verdicts_total", _C, "The gate's last verdict on each step that it was asked about.", ("decision",)),
    Metric("gate_objections_total", _C, "Objections in these verdicts, by the gate's term.", ("term",)),
    Metric("gate_waits_total", _C, "Steps that had to wait because the gate was closed."),
    Metric("workers", _G, "Worker processes by what they do; abandoned ones hang in the kernel.", ("state",)),
    Metric("workers_abandoned_total", _C, "Workers that were killed and did not die."),
    Metric(
        "archive_incidents", _G,
        "Sealed incidents in the archive, as retention last counted them: after each incident, and at least daily.",
    ),
    Metric("archive_bytes", _G, "The space that they took on disk when they were sealed; likewise."),
    Metric("archive_free_bytes", _G, "Free space of the archive's file system, without what it keeps for root."),
    Metric("archive_reserve_bytes", _G, "What `archive.reserve` keeps free of it: below that, nothing is archived."),
)  # fmt: skip
