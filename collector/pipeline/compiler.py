"""One item after the other: registries are asked, options get their types, names are resolved, mistakes are noted."""

from __future__ import annotations

import signal
from collections.abc import Mapping as Table
from typing import Any, Generic, TypeVar

import msgspec

from collector.collectors.registry import COLLECTORS
from collector.config import items, spec
from collector.config.convert import BAD, Converter
from collector.config.keys import keys_of
from collector.config.load import Loaded
from collector.config.merge import merge
from collector.config.nodes import Mapping, Node, Sequence, text_of
from collector.config.scalars import suggest
from collector.model.diagnostics import Diagnostic, Mark
from collector.model.pressure import Budget, Limits, StepClass
from collector.model.units import quote
from collector.pipeline.conditions import MANUAL, Conditions, signal_number
from collector.pipeline.steps import CompiledTrigger, Pipeline, Step

T = TypeVar("T")


class Compiler(Generic[T]):
    """Collects what is wrong while it compiles."""

    def __init__(self, loaded: Loaded, triggers: Table[str, type[T]]) -> None:
        self.problems: list[Diagnostic] = list(loaded.problems)
        self._loaded = loaded
        self._config = loaded.config
        self._triggers = triggers
        self._trigger_ids = frozenset({MANUAL, *(trigger.id for trigger in loaded.config.triggers)})
        self._items: dict[tuple[str, ...], dict[str, Mapping]] = {}
        self._misplaced: dict[Mark, str] = {}

    def pipeline(self, name: str, given: items.Pipeline) -> Pipeline:
        """Compile one pipeline; steps that cannot be compiled are left out, with their problem noted."""
        steps = [self._step(name, step) for step in given.steps if step.enabled]
        timeout = self._config.runtime.incident_timeout if given.timeout is None else given.timeout
        return Pipeline(
            name=name,
            steps=tuple(step for step in steps if step is not None),
            timeout_s=float(timeout),
        )

    def _step(self, pipeline: str, given: items.Step) -> Step | None:
        here = self._item(("pipelines", pipeline, "steps"), given.id)
        kind = COLLECTORS.get(given.collector)
        if kind is None:
            self._unknown(here, "collector", given.collector, COLLECTORS)
            return None
        shared = self._config.defaults
        self._note_misplaced(here, kind, given.collector)
        options = Mapping(
            merge(shared.with_.get(given.collector, items.NO_OPTIONS), given.with_).entries, given.with_.mark
        )
        collector = self._build(kind, options, here, f"collector {given.collector}")
        conditions = self._conditions(given.when, here)
        if collector is BAD or conditions is None:
            return None
        timeout = next((t for t in (given.timeout, shared.timeout) if t is not None), kind.footprint.timeout_s)
        budget = collector.footprint.peak_bytes if given.budget is None else given.budget
        return Step(
            id=given.id,
            collector=collector,
            timeout_s=float(timeout),
            limits=_limits(kind.footprint.step_class, self._config.pressure, shared.pressure, given.pressure),
            budget=Budget(step_class=kind.footprint.step_class, memory_bytes=int(budget)),
            when=conditions,
            required=shared.required if given.required is None else given.required,
        )

    def trigger(self, given: items.Trigger) -> CompiledTrigger[T] | None:
        """Compile one trigger; ``None`` if it is off, or cannot be compiled."""
        if not given.enabled:
            return None
        here = self._item(("triggers",), given.id)
        names = self._loaded.tree.get("pipelines")
        pipelines = tuple(names.entries) if isinstance(names, Mapping) else ()
        if given.pipeline not in pipelines:
            self._unknown(here, "pipeline", given.pipeline, pipelines)
        kind = self._triggers.get(given.type)
        if kind is None:
            self._unknown(here, "type", given.type, self._triggers)
            return None
        built = self._build(kind, given.options, here, f"trigger {given.type}")
        if built is BAD:
            return None
        return CompiledTrigger(id=given.id, trigger=built, pipeline=given.pipeline)

    def check_whole(self) -> None:
        """Check what no item can check for itself."""
        tree, top = self._loaded.tree, Mark(self._loaded.tree.mark.file, 1, 1)
        pipelines = tree.get("pipelines")
        if pipelines is None or (isinstance(pipelines, Mapping) and not pipelines.entries):
            mark = pipelines.mark if pipelines else top
            self._note(mark, "there is no pipeline: nothing would ever be collected", "add one under `pipelines`")
        for name, pipeline in self._config.pipelines.items():
            place = self._loaded.origins.get(("pipelines", name, "steps"), top)
            if not pipeline.steps and place.line and _is_empty_list(pipelines, name):
                self._note(place, f"pipeline {name} has no steps", "add one, or remove the pipeline")
        table = tree.get("defaults")
        options = table.get("with") if isinstance(table, Mapping) else None
        for name, entry in options.entries.items() if isinstance(options, Mapping) else ():
            if name not in COLLECTORS:
                self._note(entry.key_mark, f"there is no collector {quote(name)}", suggest(name, COLLECTORS))

    def _build(self, kind: type[Any], options: Mapping, here: Mapping, name: str) -> Any:
        """Make a collector or a trigger of its options."""
        converter = Converter()
        place = options if options.mark.file else Mapping(options.entries, here.mark)
        built = converter.read(place, kind, name)
        self.problems += converter.problems
        return built

    def _note_misplaced(self, here: Mapping, kind: type[Any], name: str) -> None:
        """Where a key of a step is unknown, but is an option of its collector, know where it belongs."""
        for key, entry in here.entries.items():
            if key in keys_of(kind):
                self._misplaced[entry.key_mark] = f"it is an option of {name}: put it under `with`"

    def explained(self) -> list[Diagnostic]:
        """Return all problems, with the better hints that only a whole step gives."""
        return [
            msgspec.structs.replace(problem, hint=self._misplaced.get(problem.mark, problem.hint))
            for problem in self.problems
        ]

    def _conditions(self, when: items.When, here: Mapping) -> Conditions | None:
        """Compile conditions; ``None`` if they name what does not exist."""
        before, numbers = len(self.problems), []
        for text, node in zip(when.signal, _items(here, "when", "signal"), strict=False):
            try:
                numbers.append(signal_number(text))
            except ValueError:
                self._note(node.mark, f"there is no signal {quote(text)}", suggest(text, signal.Signals.__members__))
        for text, node in zip(when.trigger, _items(here, "when", "trigger"), strict=False):
            if text not in self._trigger_ids:
                self._note(node.mark, f"there is no trigger {quote(text)}", suggest(text, sorted(self._trigger_ids)))
        if len(self.problems) > before:
            return None
        return Conditions(comm=when.comm, exe=when.exe, signals=tuple(numbers), triggers=when.trigger, units=when.unit)

    def _item(self, path: tuple[str, ...], name: str) -> Mapping:
        """Return the node of the item of *path* whose id is *name*."""
        if path not in self._items:
            nodes = _items(self._loaded.tree, *path)
            known = [(text_of(node.get("id")), node) for node in nodes if isinstance(node, Mapping)]
            self._items[path] = {text: node for text, node in reversed(known) if text is not None}
        return self._items[path][name]  # an item of the configuration is always one of the tree

    def _unknown(self, here: Mapping, key: str, word: str, known: Any) -> None:
        """Note that the value of *key* names nothing."""
        self._note(here.entries[key].node.mark, f"there is no {_noun(key)} {quote(word)}", suggest(word, known))

    def _note(self, mark: Mark, message: str, hint: str | None = None) -> None:
        self.problems.append(Diagnostic(mark=mark, message=message, hint=hint))


def _noun(key: str) -> str:
    return "trigger type" if key == "type" else key


def _items(here: Mapping, *keys: str) -> tuple[Node, ...]:
    """Return the items of the list that stands below *here*."""
    node: Node | None = here
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node.items if isinstance(node, Sequence) else ()


def _is_empty_list(pipelines: Node | None, name: str) -> bool:
    """Tell a list without items from one whose items were all bad."""
    return isinstance(pipelines, Mapping) and not _items(pipelines, name, "steps")


def _limits(
    step_class: StepClass, whole: spec.Pressure, shared: items.StepPressure | None, own: items.StepPressure | None
) -> Limits:
    """Return a step's limits: its own, else the shared ones, else the whole file's, whose floor is for heavy steps."""

    def pick(name: str, *, default: Any) -> Any:
        return next((v for v in (getattr(s, name, None) for s in (own, shared)) if v is not None), default)

    return Limits(
        floor_bytes=int(pick("floor", default=whole.floor if step_class is StepClass.HEAVY else 0)),
        on_pressure=pick("on_pressure", default=whole.on_pressure),
        wait_s=float(pick("wait", default=whole.wait)),
    )
