"""
Drop-ins: later files change earlier ones, key by key.

Mappings merge by key. Lists whose items have an ``id`` merge by it: an item with a known id changes
that item's keys, one with a new id is appended. Other lists and single values are replaced. An item
with ``replace: true`` replaces its namesake entirely.

A list that is replaced loses items without a word in either file: what is lost is noted.
"""

from __future__ import annotations

from collections.abc import Iterator

from collector.config.nodes import MappingEntry, MappingNode, Node, Path, SequenceNode, plain, text_of, walk
from collector.model.diagnostics import Diagnostic, Severity
from collector.model.text import printable
from collector.model.units import counted, quote

REPLACE = "replace"
SHOWN = 5
"""Lost items that a note names."""


def merge(base: MappingNode, over: MappingNode, path: Path = (), notes: list[Diagnostic] | None = None) -> MappingNode:
    """Return *base* as changed by *over*; add to *notes* which lists lose items by that."""
    notes = [] if notes is None else notes
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        old = entries.get(key)
        node = entry.node if old is None else _merge(old.node, entry.node, (*path, key), notes)
        entries[key] = MappingEntry(entry.key_mark if old is None else old.key_mark, node)
    return MappingNode(entries, base.mark)


def _merge(base: Node, over: Node, path: Path, notes: list[Diagnostic]) -> Node:
    if isinstance(base, MappingNode) and isinstance(over, MappingNode):
        return over if _replaces(over, path) else merge(base, over, path, notes)
    if isinstance(base, SequenceNode) and isinstance(over, SequenceNode):
        return _merge_items(base, over, path, notes)
    return over


def _merge_items(base: SequenceNode, over: SequenceNode, path: Path, notes: list[Diagnostic]) -> SequenceNode:
    """Merge two lists by the ids of their items, if all items have one."""
    ids = [_id(item) for item in base.items]
    if not over.items or None in ids or any(_id(item) is None for item in over.items):
        notes += _lost(base, over, path)
        return over
    items = list(base.items)
    for item in over.items:
        if _id(item) in ids:
            index = ids.index(_id(item))
            items[index] = _merge(items[index], item, (*path, index), notes)
        else:
            ids.append(_id(item))
            items.append(item)
    return SequenceNode(tuple(items), base.mark)


def _lost(base: SequenceNode, over: SequenceNode, path: Path) -> Iterator[Diagnostic]:
    """Yield what the list *base* had and *over*, which replaces it, has not."""
    kept = [plain(item) for item in over.items]
    lost = [item for item in base.items if plain(item) not in kept]
    if lost:
        texts = [text_of(item) or _id(item) for item in lost]
        named = ", ".join(text for text in texts[:SHOWN] if text) if all(texts) else counted(len(lost), "item")
        more = f" and {len(lost) - SHOWN} more" if all(texts) and len(lost) > SHOWN else ""
        yield Diagnostic(
            mark=over.mark,
            message=f"`{path[-1]}` replaces the list of {base.mark}, without {printable(named, limit=200)}{more}",
            hint="repeat what is to stay",
            severity=Severity.NOTE,
        )


def _replaces(over: MappingNode, path: Path) -> bool:
    """Return whether *over* is a pipeline, a step or a trigger that replaces its namesake entirely."""
    is_item = path[-1:] != ("with",) and (
        (len(path) == 2 and path[0] in ("pipelines", "triggers")) or (len(path) == 4 and path[2] == "steps")
    )
    return is_item and text_of(over.get(REPLACE)) in ("true", "True", "TRUE")


def repeated_ids(tree: Node) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each item of one file whose id an earlier item of its list has."""
    for _, node in walk(tree):
        seen: dict[str, int] = {}
        for item in node.items if isinstance(node, SequenceNode) else ():
            name = _id(item)
            if name is not None and isinstance(item, MappingNode):
                mark = item.entries["id"].node.mark
                if name in seen:
                    message = f"the id {quote(name)} is already used"
                    yield Diagnostic(mark=mark, message=message, hint=f"first on line {seen[name]}")
                seen.setdefault(name, mark.line)


def _id(node: Node) -> str | None:
    return text_of(node.get("id")) if isinstance(node, MappingNode) else None
