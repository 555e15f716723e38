"""What is in force: every value with its origin, including defaults and what steps inherit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from collector.config import spec
from collector.config.dump import FORMATS, inline, written
from collector.config.keys import Key, is_record, keys_of
from collector.config.nodes import MappingNode, Path, plain
from collector.model.conditions import Conditions
from collector.model.pressure import GateLimits, StepClass
from collector.pipeline.compile import Plan
from collector.pipeline.steps import CompiledTrigger, Step

DEFAULT = "default"
COMMENT_COLUMN = 48
CONSUMED = frozenset({"replace", "defaults"})
"""Keys that the values of others already reflect: `replace` once files are merged, `defaults` in each step."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value as the file would write it, and its origin: ``FILE:LINE:COLUMN``, or ``default``."""

    value: Any
    origin: str


Tree = Value | dict[str, "Tree"] | list["Tree"]


def effective(plan: Plan[Any]) -> dict[str, Tree]:
    """Return the whole configuration as *plan* has it in force."""
    show = _Origins(plan)
    config = plan.loaded.config
    running = {trigger.id: trigger for trigger in plan.triggers}
    replaced: dict[str, Tree] = {
        "triggers": [
            show.trigger(given, running.get(given.id), ("triggers", index))
            for index, given in enumerate(config.triggers)
        ],
        "pipelines": {name: _pipeline(show, plan, name) for name in plan.pipelines},
    }
    return show.record(config, replaced, ())


def _pipeline(show: _Origins, plan: Plan[Any], name: str) -> dict[str, Tree]:
    given, path = plan.loaded.config.pipelines[name], ("pipelines", name)
    compiled = {step.id: step for step in plan.pipelines[name].steps}
    timeout = keys_of(spec.PipelineSpec)["timeout"]
    inherited = ("runtime", "incident_timeout")
    replaced: dict[str, Tree] = {
        "timeout": show.value(plan.pipelines[name].timeout_s, timeout.annotation, (*path, "timeout"), inherited),
        "steps": [
            show.step(step, compiled.get(step.id), (*path, "steps", index)) for index, step in enumerate(given.steps)
        ],
    }
    return show.record(given, replaced, path)


class _Origins:
    """Puts an origin beside each value."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._origins = plan.loaded.origins

    def value(self, value: Any, annotation: Any, *paths: Path) -> Tree:
        """Return *value* with its origin: the first of *paths* that a file has."""
        if isinstance(value, dict):
            return {key: self.value(item, None, *((*path, key) for path in paths)) for key, item in value.items()}
        if is_record(type(value)) and annotation not in FORMATS:
            return self.record(value, {}, *paths)
        origin = next((str(self._origins[path]) for path in paths if path in self._origins), DEFAULT)
        return Value(written(value, annotation), origin)

    def record(self, given: object, replaced: Mapping[str, Tree], *paths: Path) -> dict[str, Tree]:
        """Return all keys of a struct or a dataclass; values in *replaced* are taken from there."""
        return {
            key.name: replaced[key.name] if key.name in replaced else self._key(given, key, *paths)
            for key in keys_of(type(given)).values()
            if key.name not in CONSUMED
        }

    def _key(self, given: object, key: Key, *paths: Path) -> Tree:
        return self.value(getattr(given, key.attribute), key.annotation, *((*path, key.name) for path in paths))

    def trigger(self, given: spec.TriggerSpec, compiled: CompiledTrigger[Any] | None, path: Path) -> dict[str, Tree]:
        """Return a trigger, with all of its options if it is on."""
        return self.record(given, {}, path) | self._options(compiled.trigger if compiled else None, given.options, path)

    def step(self, given: spec.StepSpec, compiled: Step | None, path: Path) -> dict[str, Tree]:
        """Return a step; if it is on, with all of its options and what it inherits."""
        options = self._options(
            compiled.collector if compiled else None,
            given.with_,
            (*path, "with"),
            ("defaults", "with", given.collector),
        )
        known = keys_of(spec.StepSpec)
        if compiled is None:
            shown = ("id", "collector", "enabled")
            return {name: self._key(given, known[name], path) for name in shown} | {"with": options}
        nearest: tuple[Path, ...] = ((*path, "pressure"), ("defaults", "pressure"))
        limits = self.record(compiled.limits, {}, *nearest, ("pressure",))
        if compiled.budget.step_class is not StepClass.HEAVY:  # the file's floor is for heavy steps
            limits["floor"] = self._key(compiled.limits, keys_of(GateLimits)["floor"], *nearest)
        conditions = {
            key.name: self._key(given.when, key, (*path, "when"))
            for key in keys_of(Conditions).values()
            if getattr(given.when, key.attribute)
        }
        in_force = {
            "timeout": compiled.timeout_s,
            "budget": compiled.budget.memory_bytes,
            "required": compiled.required,
        }
        replaced: dict[str, Tree] = {
            name: self.value(value, known[name].annotation, (*path, name), ("defaults", name))
            for name, value in in_force.items()
        }
        return self.record(given, replaced | {"with": options, "pressure": limits, "when": conditions}, path)

    def _options(self, built: object, given: MappingNode, *paths: Path) -> dict[str, Tree]:
        """Return the options of a collector or a trigger; as they were given if it is off."""
        if built is None:
            return {key: Value(plain(entry.node), str(entry.node.mark)) for key, entry in given.entries.items()}
        return self.record(built, {}, *paths)


def as_yaml(tree: Tree, indent: str = "") -> Iterator[str]:
    """Yield lines of YAML that load to the same configuration, each value's origin in a comment."""
    if isinstance(tree, dict):
        for key, item in tree.items():
            if isinstance(item, Value):
                line = f"{indent}{key}: {inline(item.value)}"
                yield f"{line:<{COMMENT_COLUMN}}  # {item.origin}"
            elif item:
                yield f"{indent}{key}:"
                yield from as_yaml(item, indent + "  ")
    elif isinstance(tree, list):
        for item in tree:
            first, *others = as_yaml(item, indent + "  ")
            yield f"{indent}- {first.removeprefix(indent + '  ')}"
            yield from others


def values(tree: Tree) -> Any:
    """Return only the values, as JSON."""
    if isinstance(tree, Value):
        return tree.value
    if isinstance(tree, dict):
        return {key: values(item) for key, item in tree.items()}
    return [values(item) for item in tree]


def origins(tree: Tree, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of each value, as ``pipelines.crash.steps[0].id``, and its origin."""
    if isinstance(tree, Value):
        yield path, tree.origin
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from origins(item, f"{path}.{key}" if path else key)
    else:
        for index, item in enumerate(tree):
            yield from origins(item, f"{path}[{index}]")
