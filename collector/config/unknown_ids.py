"""
Drop-ins that change what does not exist: a misspelt id would begin a half-defined item of its own.

Looked at once all files are merged, so that a drop-in may also change what a later one adds.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from typing import NamedTuple

from collector.config.merge import REPLACE
from collector.config.nodes import MappingEntry, MappingNode, Node, Path, ScalarNode, SequenceNode, text_of
from collector.config.scalars import suggest
from collector.model.diagnostics import Diagnostic, Mark, Severity
from collector.model.units import quote

_NEEDS = {
    "trigger": "`type` and `pipeline`",
    "step": "a `collector`",
    "pipeline": "steps, each with its `collector`",
}


class NamedItem(NamedTuple):
    """A trigger, a pipeline or a step of a tree: what it is, its name, its place, and that of the name."""

    noun: str
    path: Path
    name: str
    node: MappingNode
    mark: Mark


def named_items(tree: MappingNode) -> Iterator[NamedItem]:
    """Yield all triggers, pipelines and steps that have a name."""
    yield from _of_list("trigger", tree.get("triggers"), ("triggers",))
    pipelines = tree.get("pipelines")
    for name, entry in pipelines.entries.items() if isinstance(pipelines, MappingNode) else ():
        if isinstance(entry.node, MappingNode):
            yield NamedItem("pipeline", ("pipelines", name), name, entry.node, entry.key_mark)
            yield from _of_list("step", entry.node.get("steps"), ("pipelines", name, "steps"))


def _of_list(noun: str, node: Node | None, path: Path) -> Iterator[NamedItem]:
    for index, item in enumerate(node.items if isinstance(node, SequenceNode) else ()):
        name = text_of(item.get("id")) if isinstance(item, MappingNode) else None
        if isinstance(item, MappingNode) and name is not None:
            yield NamedItem(noun, (*path, index), name, item, item.entries["id"].node.mark)


def without_unknown(tree: MappingNode, main_file: str) -> tuple[MappingNode, list[Diagnostic]]:
    """Return the merged *tree* without what a drop-in changes although no file defines it, and what to say of that."""
    known = list(named_items(tree))
    unknown = [item for item in known if item.node.mark.file != main_file and _is_half_defined(item)]
    pipelines = {item.path for item in unknown if item.noun == "pipeline"}
    unknown = [item for item in unknown if item.noun != "step" or item.path[:2] not in pipelines]
    kept = _without(tree, {id(item.node) for item in unknown}) if unknown else tree
    return (kept if isinstance(kept, MappingNode) else tree), [_unknown(item, known, main_file) for item in unknown]


def replacing_nothing(base: MappingNode, over: MappingNode) -> Iterator[Diagnostic]:
    """Yield a warning for each item of the drop-in *over* that replaces what *base* does not have."""
    known = list(named_items(base))
    for item in named_items(over):
        others = _siblings(item, known)
        if text_of(item.node.get(REPLACE)) in ("true", "True", "TRUE") and item.name not in others:
            yield Diagnostic(
                mark=item.mark,
                message=f"there is no {item.noun} {quote(item.name)} to replace: this one is added",
                hint=suggest(item.name, others),
                severity=Severity.WARNING,
            )


def _is_half_defined(item: NamedItem) -> bool:
    keys = item.node.entries
    if REPLACE in keys:
        return False
    if item.noun == "trigger":
        return "type" not in keys or "pipeline" not in keys
    if item.noun == "step":
        return "collector" not in keys
    steps = keys["steps"].node if "steps" in keys else None
    items = steps.items if isinstance(steps, SequenceNode) else ()
    return steps is None or (
        bool(items) and not any(isinstance(step, MappingNode) and "collector" in step.entries for step in items)
    )


def _unknown(item: NamedItem, known: list[NamedItem], main_file: str) -> Diagnostic:
    sane = [other for other in known if other.node.mark.file == main_file or not _is_half_defined(other)]
    where = os.path.basename(main_file) + (f", pipeline {item.path[1]}" if item.noun == "step" else "")
    meant = suggest(item.name, _siblings(item, sane)) or "it has none"
    return Diagnostic(
        mark=item.mark,
        message=f"there is no {item.noun} {quote(item.name)} in {where}",
        hint=f"{meant.rstrip('?')}{'?' if meant.endswith('?') else '.'} To add one, give it {_NEEDS[item.noun]}",
    )


def _siblings(item: NamedItem, known: list[NamedItem]) -> list[str]:
    """Return the names of all of *known* that stand where *item* does."""
    return [other.name for other in known if other.noun == item.noun and other.path[:-1] == item.path[:-1]]


def _without(node: Node, gone: set[int]) -> Node:
    """Return *node* without those below it whose `id` is one of *gone*."""
    match node:
        case SequenceNode():
            return SequenceNode(tuple(_without(item, gone) for item in node.items if id(item) not in gone), node.mark)
        case MappingNode():
            kept = {key: entry for key, entry in node.entries.items() if id(entry.node) not in gone}
            below = {key: MappingEntry(entry.key_mark, _without(entry.node, gone)) for key, entry in kept.items()}
            return MappingNode(below, node.mark)
        case ScalarNode():
            return node
