"""
Compiles the configuration to what can run, or reports everything that is wrong with it.

Item by item, names are resolved and options get the types of their collector or trigger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from collector.collectors.registry import COLLECTORS
from collector.config import spec
from collector.config.convert import BAD, Converter
from collector.config.keys import keys_of
from collector.config.load import Loaded, examine, in_order
from collector.config.merge import merge
from collector.config.nodes import MappingNode, Node, SequenceNode, text_of
from collector.config.scalars import suggest
from collector.model.conditions import MANUAL, Conditions
from collector.model.constrained import MAX_LABELS
from collector.model.diagnostics import Diagnostic, Mark, Severity, errors
from collector.model.errors import ConfigError
from collector.model.nearest import nearest
from collector.model.pressure import Budget, GateLimits, StepClass
from collector.model.recording import MAX_ROWS, STEP
from collector.model.signals import UnknownSignalError, signal_number
from collector.model.units import Bytes, quote
from collector.pipeline.steps import CompiledTrigger, Pipeline, Step

T = TypeVar("T")

MANUAL_PIPELINE = "crash"
"""What ``collector run --now`` runs unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[T]):
    """
    All that a generation of the configuration asks for.

    Args:
        loaded: The configuration.
        pipelines: By name; steps that are off are left out.
        triggers: Those that are on.
        warnings: Of the files alone: what is legal and was hardly meant.
        notes: What readers of the files may not expect.
    """

    loaded: Loaded
    pipelines: dict[str, Pipeline]
    triggers: tuple[CompiledTrigger[T], ...]
    warnings: tuple[Diagnostic, ...]
    notes: tuple[Diagnostic, ...] = ()


def prepare(path: str | None, triggers: Mapping[str, type[T]]) -> Plan[T]:
    """
    Load and compile, so that one error holds everything that either of them finds.

    Args:
        path: The main file; ``None`` for the packaged default.
        triggers: The kinds of triggers by name (``TRIGGERS``; this package lies below theirs).

    Raises:
        ConfigError: With all diagnostics, in the order of files and lines.
    """
    plan = draft(path, triggers)
    if errors(plan.warnings):
        raise ConfigError(in_order([*plan.warnings, *plan.notes], plan.loaded.files))
    return plan


def draft(path: str | None, triggers: Mapping[str, type[T]]) -> Plan[T]:
    """
    Load and compile what can be, as `prepare` does; mistakes are among the plan's *warnings*.

    Raises:
        ConfigError: If nothing can be read.
    """
    loaded = examine(path)
    compiler = _Compiler(loaded, triggers)
    pipelines = {name: compiler.pipeline(name, given) for name, given in loaded.config.pipelines.items()}
    compiled = tuple(filter(None, map(compiler.trigger, loaded.config.triggers)))
    compiler.check_whole()
    diagnostics = in_order(compiler.explained(), loaded.files)
    return Plan(
        loaded=loaded,
        pipelines=pipelines,
        triggers=compiled,
        warnings=tuple(each for each in diagnostics if each.severity is not Severity.NOTE),
        notes=tuple(each for each in diagnostics if each.severity is Severity.NOTE),
    )


class _Compiler(Generic[T]):
    """Compiles item by item and collects diagnostics."""

    def __init__(self, loaded: Loaded, triggers: Mapping[str, type[T]]) -> None:
        self.diagnostics: list[Diagnostic] = list(loaded.diagnostics)
        self._loaded = loaded
        self._config = loaded.config
        self._triggers = triggers
        self._trigger_ids = frozenset({MANUAL, *(trigger.id for trigger in loaded.config.triggers)})
        self._items: dict[tuple[str, ...], dict[str, MappingNode]] = {}
        self._better_hints: dict[Mark, str] = {}

    def pipeline(self, name: str, given: spec.PipelineSpec) -> Pipeline:
        """Compile one pipeline; steps that cannot be compiled are left out and noted."""
        steps = [self._step(name, step) for step in given.steps if step.enabled]
        timeout = self._config.runtime.incident_timeout_s if given.timeout is None else given.timeout
        return Pipeline(name=name, steps=tuple(filter(None, steps)), timeout_s=float(timeout))

    def _step(self, pipeline: str, given: spec.StepSpec) -> Step | None:
        here = self._item(("pipelines", pipeline, "steps"), given.id)
        if given.id == STEP:
            hint = "give it another id; `recorder: {keep: 0s}` turns the flight recorder off"
            self._note(_mark_of(here, "id"), f"{STEP} is the step of the flight recorder, in every pipeline", hint)
        kind = COLLECTORS.get(given.collector)
        if kind is None:
            self._unknown(here, "collector", given.collector, COLLECTORS)
            return None
        shared = self._config.defaults
        self._note_misplaced(here, kind, given.collector)
        merged = merge(shared.with_.get(given.collector, spec.NO_OPTIONS), given.with_)
        options = MappingNode(merged.entries, given.with_.mark)
        collector = self._build(kind, options, here, f"collector {given.collector}")
        if not self._check_conditions(given.when, here) or collector is BAD:
            return None
        timeout = next((t for t in (given.timeout, shared.timeout) if t is not None), kind.footprint.timeout_s)
        budget = collector.footprint.peak_bytes if given.budget is None else given.budget
        return Step(
            id=given.id,
            collector=collector,
            timeout_s=float(timeout),
            limits=self._limits(kind.footprint.step_class, given),
            budget=Budget(step_class=kind.footprint.step_class, memory_bytes=int(budget)),
            when=given.when,
            required=shared.required if given.required is None else given.required,
        )

    def _limits(self, step_class: StepClass, given: spec.StepSpec) -> GateLimits:
        """Return the step's own limits, else those of `defaults`, else the file's, whose floor is for heavy steps."""
        whole = self._config.pressure
        if step_class is not StepClass.HEAVY:
            whole = msgspec.structs.replace(whole, floor_bytes=Bytes(0))
        return spec.overridden(whole, self._config.defaults.pressure, given.pressure)

    def trigger(self, given: spec.TriggerSpec) -> CompiledTrigger[T] | None:
        """Compile one trigger; ``None`` if it is off, or cannot be compiled."""
        if not given.enabled:
            return None
        here = self._item(("triggers",), given.id)
        names = self._loaded.tree.get("pipelines")
        pipelines = tuple(names.entries) if isinstance(names, MappingNode) else ()
        if given.pipeline not in pipelines:
            self._unknown(here, "pipeline", given.pipeline, pipelines)
        kind = self._triggers.get(given.type)
        if kind is None:
            self._unknown(here, "type", given.type, self._triggers)
            return None
        self._note_misspelt(given.options, kind)
        built = self._build(kind, given.options, here, f"trigger {given.type}")
        if built is BAD:
            return None
        return CompiledTrigger(id=given.id, trigger=built, pipeline=given.pipeline)

    def check_whole(self) -> None:
        """Check what concerns more than one item."""
        tree, top = self._loaded.tree, Mark(self._loaded.tree.mark.file, 1, 1)
        pipelines = tree.get("pipelines")
        if pipelines is None or (isinstance(pipelines, MappingNode) and not pipelines.entries):
            mark = pipelines.mark if pipelines else top
            self._note(mark, "there is no pipeline: nothing would be collected", "add one under `pipelines`")
        for name, pipeline in self._config.pipelines.items():
            place = self._loaded.origins.get(("pipelines", name, "steps"), top)
            # Empty in the file, not merely because all of its items were bad.
            if not pipeline.steps and place.line and not _items(tree, "pipelines", name, "steps"):
                self._note(place, f"pipeline {name} has no steps", "add one, or remove the pipeline")
        beyond = self._config.storm.over_budget.pipeline
        if beyond is not None and beyond not in self._config.pipelines:
            place = self._loaded.origins.get(("storm", "over_budget", "pipeline"), top)
            self._note(place, f"there is no pipeline {quote(beyond)}", suggest(beyond, self._config.pipelines))
        if self._config.recorder.rows > MAX_ROWS:
            place = self._loaded.origins.get(("recorder", "keep")) or self._loaded.origins.get(("recorder",), top)
            hint = "shorten recorder.keep, or lengthen recorder.period"
            self._note(place, f"the recorder would keep {self._config.recorder.rows} rows, more than {MAX_ROWS}", hint)
        if len(self._config.labels) > MAX_LABELS:
            place = self._loaded.origins.get(("labels",), top)
            self._note(place, f"there are {len(self._config.labels)} labels, more than {MAX_LABELS}", "leave some out")
        table = tree.get("defaults")
        options = table.get("with") if isinstance(table, MappingNode) else None
        for name, entry in options.entries.items() if isinstance(options, MappingNode) else ():
            if name not in COLLECTORS:
                self._note(entry.key_mark, f"there is no collector {quote(name)}", suggest(name, COLLECTORS))

    def _build(self, kind: type[Any], options: MappingNode, here: MappingNode, name: str) -> Any:
        """Build a collector or a trigger from its options."""
        converter = Converter()
        place = options if options.mark.file else MappingNode(options.entries, here.mark)
        built = converter.read(place, kind, name)
        self.diagnostics += converter.diagnostics
        return built

    def _note_misplaced(self, here: MappingNode, kind: type[Any], name: str) -> None:
        """Remember the keys of a step that are options of its collector: they belong under `with`."""
        for key, entry in here.entries.items():
            if key in keys_of(kind):
                self._better_hints[entry.key_mark] = f"it is an option of {name}: put it under `with`"

    def _note_misspelt(self, options: MappingNode, kind: type[Any]) -> None:
        """Remember the keys of a trigger that are meant to be those that stand in every trigger, beside its options."""
        for key, entry in options.entries.items():
            if key not in keys_of(kind) and (meant := nearest(key, [*keys_of(kind), *keys_of(spec.TriggerSpec)])):
                self._better_hints[entry.key_mark] = f"did you mean {meant}?"

    def explained(self) -> list[Diagnostic]:
        """Return all diagnostics, with the better hints that only a whole step gives."""
        return [
            msgspec.structs.replace(diagnostic, hint=self._better_hints.get(diagnostic.mark, diagnostic.hint))
            for diagnostic in self.diagnostics
        ]

    def _check_conditions(self, when: Conditions, here: MappingNode) -> bool:
        """Return whether all signals and triggers that *when* names exist; note those that do not."""
        before = len(self.diagnostics)
        for text, node in zip(when.signal, _items(here, "when", "signal"), strict=False):
            try:
                signal_number(text)
            except UnknownSignalError as exc:
                self._note(node.mark, f"there is no signal {quote(text)}", exc.hint)
        for text, node in zip(when.trigger, _items(here, "when", "trigger"), strict=False):
            if text not in self._trigger_ids:
                self._note(node.mark, f"there is no trigger {quote(text)}", suggest(text, sorted(self._trigger_ids)))
        return len(self.diagnostics) == before

    def _item(self, path: tuple[str, ...], name: str) -> MappingNode:
        """Return the node of the item of *path* whose id is *name*."""
        if path not in self._items:
            nodes = _items(self._loaded.tree, *path)
            known = [(text_of(node.get("id")), node) for node in nodes if isinstance(node, MappingNode)]
            self._items[path] = {text: node for text, node in reversed(known) if text is not None}
        return self._items[path][name]  # an item of the configuration is always one of the tree

    def _unknown(self, here: MappingNode, key: str, word: str, known: Any) -> None:
        """Note that the value of *key* does not exist."""
        noun = "trigger type" if key == "type" else key
        self._note(_mark_of(here, key), f"there is no {noun} {quote(word)}", suggest(word, known))

    def _note(self, mark: Mark, message: str, hint: str | None = None) -> None:
        self.diagnostics.append(Diagnostic(mark=mark, message=message, hint=hint))


def _mark_of(here: MappingNode, key: str) -> Mark:
    """Return where the value of *key* is; of two items with the same id, *here* is the first, and may lack the key."""
    entry = here.entries.get(key)
    return entry.node.mark if entry else here.mark


def _items(here: MappingNode, *keys: str) -> tuple[Node, ...]:
    """Return the items of the list below *here*."""
    node: Node | None = here
    for key in keys:
        node = node.get(key) if isinstance(node, MappingNode) else None
    return node.items if isinstance(node, SequenceNode) else ()
