"""A parsed file before it has types: text, lists and mappings, each with its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from collector.model.diagnostics import Mark

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the file: ``("pipelines", "crash", "steps", 0, "id")``."""


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """Text. *plain* is True if it had no quotes, and so may mean a number, a boolean or null."""

    text: str
    plain: bool
    mark: Mark


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class MappingEntry:
    """A key's place and its value."""

    key_mark: Mark
    node: Node


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys and values in the order of the file."""

    entries: dict[str, MappingEntry]
    mark: Mark

    def get(self, key: str) -> Node | None:
        entry = self.entries.get(key)
        return entry.node if entry else None


Node = ScalarNode | SequenceNode | MappingNode

NULLS = frozenset({"", "~", "null", "Null", "NULL"})


def is_null(node: Node) -> bool:
    """Return whether *node* is a key without a value."""
    return isinstance(node, ScalarNode) and node.plain and node.text in NULLS


def text_of(node: Node | None) -> str | None:
    """Return the text of *node*; ``None`` if it is not a scalar, or null."""
    return node.text if isinstance(node, ScalarNode) and not is_null(node) else None


def plain(node: Node) -> object:
    """Return *node* as strings, lists and dicts."""
    match node:
        case ScalarNode():
            return None if is_null(node) else node.text
        case SequenceNode():
            return [plain(item) for item in node.items]
        case MappingNode():
            return {key: plain(entry.node) for key, entry in node.entries.items()}


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Yield *node* and everything below it, each with its path."""
    yield path, node
    match node:
        case SequenceNode():
            for index, item in enumerate(node.items):
                yield from walk(item, (*path, index))
        case MappingNode():
            for key, entry in node.entries.items():
                yield from walk(entry.node, (*path, key))
