"""Conditions that can never hold: in the `when` of steps, and in the rules of triggers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from collector.config.nodes import Path
from collector.config.spec import PipelineSpec, StepSpec
from collector.model.conditions import MANUAL, Impossible
from collector.model.knowledge import FACTS, NOTHING, Fact, Knowledge, misfit
from collector.model.units import quote
from collector.pipeline.compile import Plan

USELESS = "remove the condition, or let a trigger that can tell it run this pipeline, such as process_exits"


MAX_STATUS = 255  # wait(2); 0 is success, which the kernel does not report


class Doubt(NamedTuple):
    """What is wrong with the key at *path*, and what to do about it."""

    path: Path
    message: str
    hint: str


def doubtful_conditions(plan: Plan[Any]) -> Iterator[Doubt]:
    """Yield the conditions that no crash can meet, with their places in the file."""
    for index, given in enumerate(plan.loaded.config.triggers):
        rules = next((getattr(one.trigger, "rules", ()) for one in plan.triggers if one.id == given.id), ())
        for number, rule in enumerate(rules):
            yield from _of_rule(rule, ("triggers", index, "rules", number))
    if plan.triggers:
        for name, pipeline in plan.loaded.config.pipelines.items():
            yield from _of_pipeline(plan, name, pipeline)


def _of_rule(rule: Any, path: Path) -> Iterator[Doubt]:
    """Yield what of a rule fits no exit. The kernel tells it all facts."""
    if not rule.signals and not rule.statuses:
        yield Doubt(path, "no exit matches this rule", "name `signals` or `statuses`, or leave both out")
    for index, status in enumerate(rule.statuses):
        if not 1 <= status <= MAX_STATUS:
            message = f"an exit with status {status} is never reported"
            yield Doubt((*path, "statuses", index), message, f"failures have 1 to {MAX_STATUS}")
    everything = Knowledge(facts=frozenset(FACTS))
    for fact in FACTS:
        for index, wanted in enumerate(getattr(rule, fact, ())):
            if (why := misfit(fact, wanted, [everything])) is not None:
                yield Doubt((*path, fact, index), f"{quote(wanted)} fits no {_noun(fact)}: {why.reason}", why.hint)


def _of_pipeline(plan: Plan[Any], name: str, pipeline: PipelineSpec) -> Iterator[Doubt]:
    own = {MANUAL: NOTHING} | {one.id: one.trigger.knows for one in plan.triggers if one.pipeline == name}
    others = {one.id: one.trigger.knows for one in plan.triggers if one.pipeline != name}
    for index, step in enumerate(pipeline.steps):
        if step.enabled:
            path: Path = ("pipelines", name, "steps", index, "when")
            for found in step.when.impossible(own):
                yield _doubt(step, found, path, others)
            for number, trigger in enumerate(step.when.trigger):
                if trigger not in own:
                    yield _of_trigger(step, trigger, (*path, "trigger", number), plan, name)


def _doubt(step: StepSpec, found: Impossible, path: Path, others: Mapping[str, Knowledge]) -> Doubt:
    if found.number is not None:
        message = f"step {step.id}: {quote(found.wanted)} fits no {_noun(found.fact)}: {found.reason}"
        return Doubt((*path, found.fact, found.number), message, found.hint or USELESS)
    message = f"step {step.id} never runs: {found.reason}"
    if joining := [trigger for trigger, knows in others.items() if found.fact in knows.facts]:
        message = f"step {step.id} runs only for a crash that {' or '.join(joining)} reports as well: {found.reason}"
    return Doubt((*path, found.fact), message, found.hint or USELESS)


def _of_trigger(step: StepSpec, trigger: str, path: Path, plan: Plan[Any], pipeline: str) -> Doubt:
    """Return what is wrong with naming a trigger that does not run this pipeline."""
    other = next((one.pipeline for one in plan.triggers if one.id == trigger), None)
    if other is None:
        return Doubt(path, f"step {step.id}: trigger {trigger} is off", "remove it, or turn the trigger on")
    return Doubt(
        path,
        f"step {step.id}: trigger {trigger} runs pipeline {other}; it counts here only for a crash that a trigger of"
        f" {pipeline} reports as well",
        f"name a trigger of {pipeline}, or move the step to {other}",
    )


def _noun(fact: Fact) -> str:
    return {"comm": "command name", "exe": "executable", "signal": "crash", "unit": "unit"}[fact]
