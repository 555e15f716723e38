"""Every key of the file reaches its user and `config show`: set to another value, it is seen at both ends."""

from __future__ import annotations

import ast
import json
import typing
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector.config.convert import Converter
from collector.config.dump import written
from collector.config.keys import Key, is_record, keys_of
from collector.config.nodes import MappingEntry, MappingNode, Node, ScalarNode, SequenceNode
from collector.config.spec import Config, GateOverride, PipelineSpec, StepSpec, TriggerSpec
from collector.model.diagnostics import Mark, errors
from collector.model.pressure import GateLimits
from collector.model.units import Reserve
from collector.pipeline.compile import prepare
from collector.pipeline.effective import effective, values
from collector.pipeline.generation import Generation, generate
from collector.pipeline.steps import Step
from collector.runner.housekeeping import add_digests, hand_over, prune
from collector.triggers.registry import TRIGGERS

SOURCES = Path(__file__).parents[2] / "collector"
STEPS = ("pipelines", "crash", "steps", 0)
TRIGGER = ("triggers", 0)
Where = tuple[str | int, ...]

# What a key may be set to: the first value that its type takes and that is not its default.
CANDIDATES = (
    "x",
    1,
    3,
    7,
    4000,
    3 << 20,
    True,
    False,
    "skip",
    "mmap",
    "max",
    "sha256",
    "best-effort",
    "7%",
    "/x",
    "/x.prom",
    ["x"],
    ["x.service"],
    {"x": "x"},
)

OF_A_KIND = {"signal": ["SIGBUS"], "argv": ["/x"]}
"""What keys may be set to whose type says less than their section allows."""


def base() -> dict[str, Any]:
    """A file in which every section, a heavy step and a trigger can be changed."""
    step = {"id": "s", "collector": "command", "with": {"argv": ["/bin/true"]}}
    trigger = {"id": "t", "type": "core_files", "paths": ["/var/crash"], "pipeline": "crash"}
    return {
        "version": 1,
        "pipelines": {"crash": {"steps": [step]}, "x": {"steps": [step]}},
        "triggers": [trigger],
    }


def job_of(start: Callable[..., Any], generation: Generation, *arguments: str) -> Any:
    """The job that housekeeping gives to a worker."""
    jobs: list[Any] = []

    def perform(job: object, **_: object) -> Iterator[None]:
        jobs.append(job)
        yield

    next(start(SimpleNamespace(perform=perform, widened=nullcontext), generation, *arguments))
    return jobs[0]


def step_of(generation: Generation) -> Step:
    return generation.pipelines["crash"].steps[0]


def attribute(owner: Callable[[Generation], Any]) -> Callable[[Generation, Key], Any]:
    """A user that is given a section whole."""
    return lambda generation, key: getattr(owner(generation), key.attribute)


# Where each key arrives; the longest beginning counts. A key of a section that arrives whole needs no line here.
USERS: dict[Where, Callable[[Generation, Key], Any]] = {
    ("archive", "path"): lambda g, _: g.settings.archive,
    ("archive", "reserve"): lambda g, _: g.settings.reserve,
    ("archive", "group"): lambda g, _: g.loaded.config.archive.group,
    ("archive", "keep"): attribute(lambda g: job_of(prune, g).rules),
    ("pressure",): attribute(lambda g: step_of(g).limits),
    ("copy",): attribute(lambda g: g.settings.copy),
    ("redact",): attribute(lambda g: g.settings.redaction),
    ("runtime",): attribute(lambda g: g.loaded.config.runtime),
    ("runtime", "directory"): lambda g, _: g.runtime_directory,
    ("runtime", "incident_timeout"): lambda g, _: g.pipelines["crash"].timeout_s,
    ("recorder",): attribute(lambda g: g.loaded.config.recorder),
    ("metrics",): attribute(lambda g: g.loaded.config.metrics),
    ("storm", "per_executable"): attribute(lambda g: g.loaded.config.storm.per_executable),
    ("storm", "per_uid"): attribute(lambda g: g.loaded.config.storm.per_uid),
    ("storm", "total"): attribute(lambda g: g.loaded.config.storm.total),
    ("storm", "over_budget"): attribute(lambda g: g.loaded.config.storm.over_budget),
    ("storm", "over_budget", "per_executable"): attribute(lambda g: g.loaded.config.storm.over_budget.per_executable),
    ("storm", "over_budget", "total"): attribute(lambda g: g.loaded.config.storm.over_budget.total),
    ("storm",): attribute(lambda g: g.loaded.config.storm),
    ("labels",): lambda g, _: g.loaded.config.labels,
    ("on_archived",): attribute(lambda g: job_of(hand_over, g, "id").settings),
    ("defaults", "timeout"): lambda g, _: step_of(g).timeout_s,
    ("defaults", "required"): lambda g, _: step_of(g).required,
    ("defaults", "pressure"): attribute(lambda g: step_of(g).limits),
    ("pipelines", "crash", "timeout"): lambda g, _: g.pipelines["crash"].timeout_s,
    (*STEPS, "id"): lambda g, _: step_of(g).id,
    (*STEPS, "timeout"): lambda g, _: step_of(g).timeout_s,
    (*STEPS, "budget"): lambda g, _: step_of(g).budget.memory_bytes,
    (*STEPS, "required"): lambda g, _: step_of(g).required,
    (*STEPS, "enabled"): lambda g, _: bool(g.pipelines["crash"].steps),
    (*STEPS, "pressure"): attribute(lambda g: step_of(g).limits),
    (*STEPS, "when"): attribute(lambda g: step_of(g).when),
    (*TRIGGER, "id"): lambda g, _: g.triggers[0].id,
    (*TRIGGER, "pipeline"): lambda g, _: g.triggers[0].pipeline,
    (*TRIGGER, "enabled"): lambda g, _: bool(g.triggers),
}
# Names of a registry and what goes with them, and keys that are gone once the drop-ins are merged.
OTHERWISE_TESTED = {"version", "collector", "type", "with", "replace", "steps"}


def section_of(key: Key) -> type | None:
    """The struct of the keys below *key*, if it holds some."""
    kinds = (key.annotation, *typing.get_args(key.annotation))
    return next((kind for kind in kinds if is_record(kind) and kind not in (Reserve, MappingNode)), None)


def leaves(cls: type, where: Where = ()) -> Iterator[tuple[Where, Key]]:
    """Every key that holds a value, with its place in the file of `base`."""
    inner = {"triggers": (TRIGGER, TriggerSpec), "pipelines": (("pipelines", "crash"), PipelineSpec)}
    for key in keys_of(cls).values():
        section = section_of(key)
        if cls is Config and key.name in inner:
            place, kind = inner[key.name]
            yield from leaves(kind, place)
        elif cls is PipelineSpec and key.name == "steps":
            yield from leaves(StepSpec, STEPS)
        elif section:
            yield from leaves(section, (*where, key.name))
        elif key.name not in OTHERWISE_TESTED:
            yield (*where, key.name), key


def node_of(value: Any) -> Node:
    if isinstance(value, list):
        return SequenceNode(tuple(map(node_of, value)), Mark("f"))
    if isinstance(value, dict):
        entries = {key: MappingEntry(Mark("f"), node_of(item)) for key, item in value.items()}
        return MappingNode(entries, Mark("f"))
    return ScalarNode(json.dumps(value) if isinstance(value, bool) else str(value), True, Mark("f"))


def another(key: Key, default: Any) -> tuple[Any, Any]:
    """A value as the file writes it, and as it is loaded, that is not *default*."""
    for candidate in CANDIDATES:
        converter = Converter()
        value = converter.read(node_of(candidate), key.annotation, key.name)
        if not errors(converter.diagnostics) and value != default:
            return candidate, value
    raise AssertionError(f"no other value is known for {key}: add one to CANDIDATES")


def put(document: Any, where: Where, value: Any) -> None:
    for part in where[:-1]:
        document = document.setdefault(part, {}) if isinstance(document, dict) else document[part]
    document[where[-1]] = value


def at(tree: Any, where: Where) -> Any:
    for part in where:
        tree = tree[part]
    return tree


def generation_of(directory: Path, document: dict[str, Any]) -> Generation:
    (directory / "c.yaml").write_text(json.dumps(document))
    return generate(str(directory / "c.yaml"), TRIGGERS)


@pytest.mark.parametrize(
    ("where", "key"), [pytest.param(where, key, id=".".join(map(str, where))) for where, key in leaves(Config)]
)
def test_config_key_reaches_its_user_and_config_show(where: Where, key: Key, tmp_path: Path) -> None:
    """A key that is read and then lost is a promise that is not kept."""
    user = next((USERS[where[:length]] for length in range(len(where), 0, -1) if where[:length] in USERS), None)
    assert user is not None, f"who uses {'.'.join(map(str, where))}?"
    before = generation_of(tmp_path, base())
    if key.name in OF_A_KIND:
        given, value = OF_A_KIND[key.name], tuple(OF_A_KIND[key.name])
    else:
        given, value = another(key, user(before, key))
    document = base()
    put(document, where, given)
    if where == (*STEPS, "when", "trigger"):
        document["triggers"][0]["id"] = given[0]
    assert user(generation_of(tmp_path, document), key) == value
    shown = values(effective(prepare(str(tmp_path / "c.yaml"), TRIGGERS)))
    place = (*STEPS, *where[1:]) if where[0] == "defaults" else where
    assert at(shown, place) == written(value, key.annotation)


def test_config_pressure_of_the_file_holds_for_steps_and_digests(tmp_path: Path) -> None:
    """The limits are passed on whole: a key that only some places copied would be lost in the others."""
    given = {name: another(key, key.default)[0] for name, key in keys_of(GateLimits).items()}
    generation = generation_of(tmp_path, base() | {"pressure": given})
    config = generation.loaded.config.pressure
    assert step_of(generation).limits == config
    digests = job_of(add_digests, generation, "id").limits
    chosen = {"floor", "on_pressure", "wait"}  # by housekeeping itself: digests add nothing, and have all the time
    for key in keys_of(GateLimits).values():
        if key.name not in chosen:
            assert getattr(digests, key.attribute) == getattr(config, key.attribute)
    assert keys_of(GateOverride).keys() == keys_of(GateLimits).keys()


def structs(cls: Any) -> Iterator[type]:
    """*cls*, and the types of its keys."""
    yield cls
    for key in keys_of(cls).values():
        section = section_of(key)
        if section not in (None, GateOverride):
            yield from structs(section)


@pytest.mark.parametrize("cls", list(structs(Config)), ids=lambda cls: cls.__name__)
def test_config_key_is_described(cls: type) -> None:
    """The docstring of a section is its reference."""
    assert [key.name for key in keys_of(cls).values() if not key.description] == []


def test_config_key_is_read_by_somebody() -> None:
    """A key of a struct that is only passed around has no effect: some code must read it."""
    read = {
        node.attr
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    described = {(cls.__name__, key.attribute) for cls in structs(Config) for key in keys_of(cls).values()}
    merged = {("StepSpec", "replace"), ("TriggerSpec", "replace"), ("PipelineSpec", "replace"), ("Config", "version")}
    assert {(cls, name) for cls, name in described - merged if name not in read} == set()
