"""The daemon's metrics, put together from its status and what it has counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from collector.archive.ledger import Ledger
from collector.daemon.archive_space import archive_space
from collector.daemon.core_removal import rules_of
from collector.daemon.counters import Counters
from collector.daemon.exposition import Rows, exposition
from collector.daemon.intake import Intake
from collector.daemon.messages import Status
from collector.daemon.status_report import StatusReport
from collector.daemon.trigger_set import TriggerSet
from collector.model.case import Fate
from collector.model.conditions import MANUAL
from collector.model.handover import HandoverState
from collector.model.incident import IncidentState, StepStatus
from collector.model.pressure import Decision, Term
from collector.pipeline.generation import Generation

ENDS = tuple(fate for fate in Fate if not fate.open)
HANDOVER_ENDS = (HandoverState.DONE, HandoverState.FAILED)
HASH_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsReport:
    """What is counted, and the report of everything else."""

    counters: Counters
    status_report: StatusReport

    def text(self, intake: Intake, ledger: Ledger, triggers: TriggerSet) -> str:
        """Return all metrics as they are now, in the text format of Prometheus."""
        report = self.status_report
        status = report.status(intake, ledger, triggers)
        generation = report.configuration.generation
        configuration, pool, holding = report.configuration, report.pool, report.holding
        more: dict[str, Rows] = {
            "config_generation": _one(configuration.generations),
            "config_loaded_timestamp_seconds": _one(configuration.loaded_s),
            "workers": {("idle",): pool.idle, ("busy",): len(pool.busy), ("abandoned",): len(pool.abandoned)},
            "workers_abandoned_total": _one(pool.abandoned_ever),
            "processes_held_total": _one(holding.held_ever),
            "holds_refused_total": _one(holding.refused_ever),
        }
        return exposition(_of_status(status) | _of_counters(self.counters, generation) | _of_disk(generation) | more)


def _of_status(status: Status) -> dict[str, Rows]:
    return {
        "build_info": {(status.version,): 1},
        "start_time_seconds": _one(status.since_s),
        "config_info": {(status.config_hash[:HASH_SHOWN],): 1},
        "config_last_reload_successful": _one(status.config_problem is None),
        "config_keys_after_restart": _one(len(status.after_restart)),
        "drained": _one(status.drained_s is not None),
        "trigger_watching": {(trigger,): state == "watching" for trigger, state in status.triggers.items()},
        "markers_lost_total": _zeros(status.triggers) | _by_word(status.lost),
        "ledger_markers": _zeros(Fate) | _by_word(status.fates),
        "ledger_on_disk": _one(status.ledger_problem is None),
        "limits_reached_total": {(limit,): sum(owners.values()) for limit, owners in status.limits.items()},
        "crashes_waiting": _one(status.queued),
        "processes_held": _one(status.crashed_held),
        "handovers_waiting": _one(status.handovers.get(HandoverState.WAITING, 0)),
        "handovers_total": {(end,): status.handovers.get(end, 0) for end in HANDOVER_ENDS},
        "incidents_running": _one(len(status.running)),
    }


def _of_counters(counters: Counters, generation: Generation) -> dict[str, Rows]:
    """Return what is counted; all that the configuration knows is there from the start, so that a first one shows."""
    triggers = [trigger.id for trigger in generation.triggers]
    core_triggers = [rule.trigger for rule in rules_of(generation)]
    pipelines = list(generation.pipelines)
    steps = {(step.id, step.collector.name) for one in generation.pipelines.values() for step in one.steps}
    ends: Rows = {(*step, status): 0 for step, status in product(sorted(steps), StepStatus)}
    known = sorted(steps | counters.steps.keys())
    return {
        "markers_total": _zeros([*triggers, MANUAL], ENDS) | counters.markers,
        "incidents_total": _zeros([*pipelines, ""], IncidentState) | counters.incidents,
        "incidents_failed_total": _zeros(pipelines) | counters.failed,
        "incidents_over_budget_total": _one(counters.over_budget),
        "incidents_continued_total": _one(counters.continued),
        "handover_tries_failed_total": _one(counters.failed_handovers),
        "cores_removed_total": _zeros(core_triggers) | counters.cores_removed,
        "cores_removed_bytes_total": _zeros(core_triggers) | counters.core_bytes_removed,
        "incident_duration_seconds": {(): (counters.archiving_s, counters.archived)},
        "incidents_pruned_total": _one(counters.pruned),
        "archived_bytes_total": _one(counters.archived_bytes),
        "last_incident_timestamp_seconds": _one(counters.last_incident_s),
        "last_success_timestamp_seconds": _one(counters.last_success_s),
        "step_duration_seconds": {
            step: (counters.step_seconds.get(step, 0), counters.steps.get(step, 0)) for step in known
        },
        "step_ends_total": {**ends, **counters.step_ends},
        "gate_verdicts_total": _zeros(Decision) | counters.verdicts,
        "gate_objections_total": _zeros(Term) | counters.objections,
        "gate_waits_total": _one(counters.waits),
        "archive_incidents": {} if counters.kept is None else _one(counters.kept[0]),
        "archive_bytes": {} if counters.kept is None else _one(counters.kept[1]),
    }


def _of_disk(generation: Generation) -> dict[str, Rows]:
    """Return the free space of the archive's disk; nothing if it cannot be told."""
    space = archive_space(generation)
    if space is None:
        return {"archive_free_bytes": {}, "archive_reserve_bytes": {}}
    return {"archive_free_bytes": _one(space.free_bytes), "archive_reserve_bytes": _one(space.reserve_bytes)}


def _one(value: float) -> Rows:
    return {(): value}


def _by_word(values: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(word,): value for word, value in values.items()}


def _zeros(*labels: Iterable[str]) -> dict[tuple[str, ...], float]:
    return dict.fromkeys(product(*labels), 0)
