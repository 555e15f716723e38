"""What is in force: every value with its origin, defaults and what steps inherit included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from collector.config import items, spec
from collector.config.dump import FORMATS, inline, written
from collector.config.keys import is_record, keys_of
from collector.config.nodes import Mapping, Path, plain
from collector.model.pressure import StepClass
from collector.model.units import Bytes, Seconds
from collector.pipeline.compile import Plan
from collector.pipeline.steps import CompiledTrigger, Step

T = TypeVar("T")

DEFAULT = "default"
COMMENT_COLUMN = 48


@dataclass(frozen=True, slots=True)
class Value:
    """A value as the file would write it, and its origin: ``FILE:LINE:COLUMN``, or where else it comes from."""

    value: Any
    origin: str


Tree = Value | dict[str, "Tree"] | list["Tree"]


def effective(plan: Plan[T]) -> dict[str, Tree]:
    """Return the whole configuration as *plan* has it in force."""
    show = _Origins(plan)
    config = plan.loaded.config
    whole: dict[str, Tree] = {}
    for key in keys_of(spec.Config).values():
        if key.name not in ("defaults", "triggers", "pipelines"):
            whole[key.name] = show.value(getattr(config, key.attribute), key.annotation, (key.name,))
    running = {trigger.id: trigger for trigger in plan.triggers}
    whole["triggers"] = [
        show.trigger(given, running.get(given.id), ("triggers", index)) for index, given in enumerate(config.triggers)
    ]
    whole["pipelines"] = {name: _pipeline(show, plan, name) for name in plan.pipelines}
    return whole


def _pipeline(show: _Origins, plan: Plan[T], name: str) -> dict[str, Tree]:
    given, path = plan.loaded.config.pipelines[name], ("pipelines", name)
    compiled = {step.id: step for step in plan.pipelines[name].steps}
    return {
        "timeout": show.value(
            plan.pipelines[name].timeout_s, Seconds, (*path, "timeout"), ("runtime", "incident_timeout")
        ),
        "steps": [
            show.step(step, compiled.get(step.id), (*path, "steps", index)) for index, step in enumerate(given.steps)
        ],
    }


class _Origins:
    """Puts an origin beside each value."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._origins = plan.loaded.origins

    def value(self, value: Any, annotation: Any, *paths: Path) -> Tree:
        """Return *value* with its origin: the first of *paths* that a file has."""
        if isinstance(value, dict):
            return {key: self.value(item, None, *((*path, key) for path in paths)) for key, item in value.items()}
        if is_record(type(value)) and annotation not in FORMATS:
            keys = keys_of(type(value)).values()
            return {
                key.name: self.value(getattr(value, key.attribute), key.annotation, *((*p, key.name) for p in paths))
                for key in keys
            }
        return Value(written(value, annotation), self._origin(paths))

    def trigger(self, given: items.Trigger, compiled: CompiledTrigger[Any] | None, path: Path) -> dict[str, Tree]:
        """Return a trigger, all of its options if it is on."""
        shown = self._keys(given, ("id", "type", "pipeline", "enabled"), path)
        return shown | self._options(compiled.trigger if compiled else None, given.options, path)

    def step(self, given: items.Step, compiled: Step | None, path: Path) -> dict[str, Tree]:
        """Return a step; if it is on, with all of its options and what it inherits."""
        shown = self._keys(given, ("id", "collector", "enabled"), path)
        shared: Path = ("defaults", "with", given.collector)
        own = compiled.collector if compiled else None
        shown["with"] = self._options(own, given.with_, (*path, "with"), shared)
        if compiled is None:
            return shown
        limits = {
            "floor": (compiled.limits.floor_bytes, Bytes),
            "on_pressure": (compiled.limits.on_pressure, str),
            "wait": (compiled.limits.wait_s, Seconds),
        }
        shown["timeout"] = self.value(compiled.timeout_s, Seconds, (*path, "timeout"), ("defaults", "timeout"))
        shown["budget"] = self.value(compiled.budget.memory_bytes, Bytes, (*path, "budget"))
        inherits = compiled.budget.step_class is StepClass.HEAVY
        shown["pressure"] = {
            name: self.value(
                value,
                kind,
                (*path, "pressure", name),
                ("defaults", "pressure", name),
                *((("pressure", name),) if inherits or name != "floor" else ()),
            )
            for name, (value, kind) in limits.items()
        }
        shown["required"] = self.value(compiled.required, bool, (*path, "required"), ("defaults", "required"))
        conditions = {key: value for key, value in msgspec.structs.asdict(given.when).items() if value}
        if conditions:
            shown["when"] = {
                key: self.value(value, tuple[str, ...], (*path, "when", key)) for key, value in conditions.items()
            }
        return shown

    def _options(self, built: object, given: Mapping, *paths: Path) -> dict[str, Tree]:
        """Return the options of a collector or a trigger; as they were given if it is off."""
        if built is None:
            shown = ((key, Value(plain(entry.node), str(entry.node.mark))) for key, entry in given.entries.items())
            return dict(shown)
        keys = keys_of(type(built)).values()
        return {
            key.name: self.value(getattr(built, key.attribute), key.annotation, *((*p, key.name) for p in paths))
            for key in keys
        }

    def _keys(self, given: object, names: tuple[str, ...], path: Path) -> dict[str, Tree]:
        return {name: self.value(getattr(given, name), type(getattr(given, name)), (*path, name)) for name in names}

    def _origin(self, paths: tuple[Path, ...]) -> str:
        return next((str(self._origins[path]) for path in paths if path in self._origins), DEFAULT)


def as_yaml(tree: Tree) -> Iterator[str]:
    """Yield lines of YAML that load to the same configuration, each value's origin in a comment."""
    yield from _lines(tree, "")


def _lines(tree: Tree, indent: str) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, item in tree.items():
            if isinstance(item, Value):
                yield _commented(f"{indent}{key}: {inline(item.value)}", item.origin)
            elif item:
                yield f"{indent}{key}:"
                yield from _lines(item, indent + "  ")
    elif isinstance(tree, list):
        for item in tree:
            first, *others = _lines(item, indent + "  ")
            yield f"{indent}- {first.removeprefix(indent + '  ')}"
            yield from others


def _commented(line: str, origin: str) -> str:
    return f"{line:<{COMMENT_COLUMN}}  # {origin}"


def values(tree: Tree) -> Any:
    """Return the values alone, as JSON holds them."""
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
