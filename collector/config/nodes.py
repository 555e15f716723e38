"""A parsed file before it has types: text, lists and mappings, each with its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from collector.model.diagnostics import Mark

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the file: ``("pipelines", "crash", "steps", 0, "id")``."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text. *plain* is True if it stood without quotes, and so may mean a number, a truth or nothing."""

    text: str
    plain: bool
    mark: Mark


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's place and its value."""

    key_mark: Mark
    node: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values in the order of the file."""

    entries: dict[str, Entry]
    mark: Mark

    def get(self, key: str) -> Node | None:
        """Return the value of *key*, if it is there."""
        entry = self.entries.get(key)
        return entry.node if entry else None


Node = Scalar | Sequence | Mapping

NULLS = frozenset({"", "~", "null", "Null", "NULL"})


def is_null(node: Node) -> bool:
    """Tell whether *node* is a key without a value."""
    return isinstance(node, Scalar) and node.plain and node.text in NULLS


def text_of(node: Node | None) -> str | None:
    """Return the text of *node* if it is one."""
    return node.text if isinstance(node, Scalar) and not is_null(node) else None


def plain(node: Node) -> object:
    """Return *node* as strings, lists and dicts."""
    match node:
        case Scalar():
            return None if is_null(node) else node.text
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {key: plain(entry.node) for key, entry in node.entries.items()}


def places(node: Node, path: Path = ()) -> Iterator[tuple[Path, Mark]]:
    """Yield where each value below *node* stands."""
    yield path, node.mark
    match node:
        case Sequence():
            for index, item in enumerate(node.items):
                yield from places(item, (*path, index))
        case Mapping():
            for key, entry in node.entries.items():
                yield from places(entry.node, (*path, key))
        case Scalar():
            pass


def scalars(node: Node) -> Iterator[Scalar]:
    """Yield all single values below *node*."""
    match node:
        case Scalar():
            yield node
        case Sequence():
            for item in node.items:
                yield from scalars(item)
        case Mapping():
            for entry in node.entries.values():
                yield from scalars(entry.node)
