"""
Drop-ins: later files change earlier ones, key by key.

Mappings merge by key. Lists whose items have an ``id`` merge by it: an item of a known id changes
that item's keys, one of a new id is appended. Any other list, and any single value, is replaced. An
item with ``replace: true`` takes the place of its namesake as a whole.
"""

from __future__ import annotations

from collector.config.nodes import Entry, Mapping, Node, Path, Sequence, text_of
from collector.model.diagnostics import Diagnostic
from collector.model.units import quote

REPLACE = "replace"


def merge(base: Mapping, over: Mapping, path: Path = ()) -> Mapping:
    """Return *base* as *over* changes it."""
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        old = entries.get(key)
        node = entry.node if old is None else _merge(old.node, entry.node, (*path, key))
        entries[key] = Entry(entry.key_mark if old is None else old.key_mark, node)
    return Mapping(entries, base.mark)


def _merge(base: Node, over: Node, path: Path) -> Node:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return over if _replaces(over, path) else merge(base, over, path)
    if isinstance(base, Sequence) and isinstance(over, Sequence) and over.items:
        return _merge_items(base, over, path)
    return over


def _merge_items(base: Sequence, over: Sequence, path: Path) -> Sequence:
    """Merge two lists by the ids of their items, if all items have one."""
    ids = [_id(item) for item in base.items]
    if None in ids or any(_id(item) is None for item in over.items):
        return over
    items = list(base.items)
    for item in over.items:
        if _id(item) in ids:
            index = ids.index(_id(item))
            items[index] = _merge(items[index], item, (*path, index))
        else:
            ids.append(_id(item))
            items.append(item)
    return Sequence(tuple(items), base.mark)


def _replaces(over: Mapping, path: Path) -> bool:
    """Tell whether *over* stands for all of what it meets: a pipeline, a step or a trigger that says so."""
    is_item = path[-1:] != ("with",) and (
        (len(path) == 2 and path[0] in ("pipelines", "triggers")) or (len(path) == 4 and path[2] == "steps")
    )
    return is_item and text_of(over.get(REPLACE)) in ("true", "True", "TRUE")


def repeated_ids(node: Node) -> list[Diagnostic]:
    """Return a problem for each item of one file that has the id of another item of its list."""
    problems: list[Diagnostic] = []
    if isinstance(node, Mapping):
        for entry in node.entries.values():
            problems += repeated_ids(entry.node)
    elif isinstance(node, Sequence):
        seen: dict[str, int] = {}
        for item in node.items:
            problems += repeated_ids(item)
            name = _id(item)
            if name is not None and isinstance(item, Mapping):
                mark = item.entries["id"].node.mark
                if name in seen:
                    problems.append(
                        Diagnostic(
                            mark=mark,
                            message=f"the id {quote(name)} is taken",
                            hint=f"the first one is on line {seen[name]}",
                        )
                    )
                seen.setdefault(name, mark.line)
    return problems


def _id(node: Node) -> str | None:
    return text_of(node.get("id")) if isinstance(node, Mapping) else None
