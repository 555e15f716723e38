"""From nodes to typed values: every mistake is noted with its place, and reading goes on."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from collector.config.keys import MISSING, Key, is_record, keys_of
from collector.config.nodes import MappingEntry, MappingNode, Node, ScalarNode, SequenceNode, is_null, walk
from collector.config.scalars import UNITS, Misread, objection_to, read_scalar, suggest
from collector.config.slips import hint_of
from collector.model.diagnostics import Diagnostic, Mark, Severity, errors
from collector.model.errors import CollectorError
from collector.model.nearest import nearest
from collector.model.units import quote

BAD: Any = object()
"""Stands for a value that could not be read; its diagnostic is noted."""

LISTS = (tuple, list, frozenset)
CONTAINERS = (*LISTS, dict)


class Converter:
    """Reads values of given types out of nodes and collects diagnostics."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []

    def read(self, node: Node, annotation: Any, name: str) -> Any:  # noqa: PLR0911 - one return per kind of type
        """
        Return the value of *node* as *annotation*, or `BAD`; messages call it *name*.

        *annotation* may be: str, int, bool, float, a unit, an enum, a literal, an optional, a tuple, a dict,
        a struct, a dataclass.
        """
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated and annotation not in UNITS:
            return self._bounded(node, arguments[0], arguments[1:], name)
        if origin in (typing.Union, types.UnionType):
            return self._either(node, arguments, name)
        if is_null(node):
            return self._note(node.mark, f"`{name}` has no value", _without_value(annotation, origin))
        if annotation in UNITS or not (is_record(annotation) or origin in CONTAINERS or annotation is MappingNode):
            return self._single(node, annotation, name)
        if origin in LISTS:
            return self._list(node, origin, arguments[0], name)
        if not isinstance(node, MappingNode):
            hint = (hint_of(node.text) or _as_mapping(node, annotation)) if isinstance(node, ScalarNode) else None
            return self._note(node.mark, f"`{name}` must be a mapping, not {_kind(node)}", hint)
        if annotation is MappingNode:
            return node
        return self._table(node, arguments, name) if arguments else self._record(node, annotation, name)

    def _single(self, node: Node, annotation: Any, name: str) -> Any:
        if not isinstance(node, ScalarNode):
            return self._note(node.mark, f"`{name}` must be a single value, not {_kind(node)}")
        try:
            return read_scalar(node, annotation, name)
        except Misread as exc:
            return self._note(node.mark, str(exc), exc.hint)

    def _record(self, node: MappingNode, cls: type, name: str) -> Any:
        """Read a struct or a dataclass key by key; keys that it does not know are mistakes."""
        keys, rest = keys_of(cls), getattr(cls, "rest", None)
        unknown = {key: entry for key, entry in node.entries.items() if key not in keys}
        found = {key.attribute: self._field(node, key, name, unknown if rest else {}) for key in keys.values()}
        values = {attribute: value for attribute, value in found.items() if value is not MISSING}
        if rest:
            values[rest] = MappingNode(unknown, node.mark)
        else:
            removed: dict[str, str] = getattr(cls, "removed", {})
            for key, entry in unknown.items():
                if key in removed:  # an upgrade must not stop collection
                    message = f"{quote(key)} is no longer a key of {name} and does nothing"
                    self._note(entry.key_mark, message, removed[key], Severity.WARNING)
                else:
                    self._note(entry.key_mark, f"{quote(key)} is not a key of {name}", _meant(key, keys))
        return BAD if any(value is BAD for value in values.values()) else self._build(cls, values, node)

    def _build(self, cls: type, values: dict[str, Any], node: MappingNode) -> Any:
        """Build a *cls*; an objection to its own values is noted at the value that it quotes."""
        try:
            return cls(**values)
        except (ValueError, CollectorError) as exc:
            return self._note(_culprit(node, str(exc)), str(exc), getattr(exc, "hint", None))

    def _field(self, node: MappingNode, key: Key, name: str, others: Mapping[str, MappingEntry]) -> Any:
        """
        Read one key. If it is bad or missing, its default is used, to find what else is wrong.

        *others* are keys that somebody else will judge, unless one of them is this one, misspelt.
        """
        entry = node.entries.get(key.name)
        if entry is not None:
            value = self.read(entry.node, key.annotation, key.name)
            return MISSING if value is BAD and key.default is not MISSING else value
        if key.default is MISSING:
            if (misspelt := nearest(key.name, others.keys())) is not None:
                mark = others[misspelt].key_mark
                return self._note(mark, f"{quote(misspelt)} is not a key of {name}", f"did you mean {key.name}?")
            return self._note(node.mark, f"{name} needs `{key.name}`", _first_sentence(key.description))
        return MISSING

    def _list(self, node: Node, origin: Any, inner: Any, name: str) -> Any:
        """Read a list; bad items are left out."""
        if not isinstance(node, SequenceNode):
            hint = _as_list(node)
            return self._note(node.mark, f"`{name}` must be a list, not {_kind(node)}", hint)
        items = [self.read(item, inner, _item(name)) for item in node.items]
        return origin(item for item in items if item is not BAD)

    def _table(self, node: MappingNode, arguments: tuple[Any, ...], name: str) -> Any:
        """Read keys that the file chooses; bad ones are left out."""
        table = {}
        for key, entry in node.entries.items():
            word = self.read(ScalarNode(key, False, entry.key_mark), arguments[0], f"{_item(name)} name")
            table[word] = self.read(entry.node, arguments[1], f"{_item(name)} {key}")
        return {word: value for word, value in table.items() if word is not BAD and value is not BAD}

    def _either(self, node: Node, choices: tuple[Any, ...], name: str) -> Any:
        """Read the first of *choices* that fits; if none does, report the first one's diagnostics."""
        if type(None) in choices and is_null(node):
            return None
        first: Converter | None = None
        words = _words(choices)
        for choice in choices:
            if choice is type(None):
                continue
            trial = Converter()
            value = trial.read(node, choice, name)
            if not errors(trial.diagnostics):
                self.diagnostics.extend(trial.diagnostics)
                return value
            first = first or trial
        if words and isinstance(node, ScalarNode) and first and not any(note.hint for note in first.diagnostics):
            return self._note(node.mark, f"`{name}` cannot be {quote(node.text)}", suggest(node.text, words))
        self.diagnostics.extend(first.diagnostics if first else ())
        return BAD

    def _bounded(self, node: Node, inner: Any, notes: tuple[Any, ...], name: str) -> Any:
        """Read a value and check it against the bounds of its `msgspec.Meta`."""
        value = self.read(node, inner, name)
        for meta in notes if value is not BAD else ():
            if isinstance(meta, msgspec.Meta) and (objection := objection_to(value, inner, meta)):
                return self._note(node.mark, f"`{name}` {objection}")
        return value

    def _note(self, mark: Mark, message: str, hint: str | None = None, severity: Severity = Severity.ERROR) -> Any:
        self.diagnostics.append(Diagnostic(mark=mark, message=message, hint=hint, severity=severity))
        return BAD


def _kind(node: Node) -> str:
    match node:
        case MappingNode():
            return "a mapping"
        case SequenceNode():
            return "a list"
        case ScalarNode():
            return quote(node.text)


def _without_value(annotation: Any, origin: Any) -> str:
    """Return what to do about a key that has no value."""
    has_keys = is_record(annotation) or origin is dict or annotation is MappingNode
    return "indent its keys below it, or remove it" if has_keys else "write one, or remove the key"


def _as_list(node: Node) -> str | None:
    """Return how *node*, where a list is expected, is one."""
    if isinstance(node, MappingNode):
        return "begin each item with `- `"
    if not isinstance(node, ScalarNode):
        return None
    return hint_of(node.text) or ("begin each item with `- `" if " " in node.text else f"write [{node.text}]")


def _as_mapping(node: ScalarNode, cls: Any) -> str | None:
    """Return how *node*, where a *cls* is expected, is one: as its first key, if that may stand alone and takes it."""
    keys = list(keys_of(cls).values()) if is_record(cls) else []
    if not keys or any(key.default is MISSING for key in keys[1:]):
        return None
    trial = Converter()
    trial.read(node, keys[0].annotation, keys[0].name)
    return None if trial.diagnostics else f"write {{{keys[0].name}: {node.text}}}"


def _meant(key: str, keys: Iterable[str]) -> str | None:
    """Return what was probably meant by a key that does not exist."""
    if key.isdigit():
        return "a number has no commas"
    return hint_of(key) or suggest(key, keys)


def _item(name: str) -> str:
    """Return what an item of the list *name* is called: a crash of crashes, a rule of rules."""
    return re.sub(r"(?<=ss|sh|ch|us)es$|s$", "", name)


def _culprit(node: Node, message: str) -> Mark:
    """Return the place of the value below *node* that *message* quotes, or of *node* itself."""
    scalars = (found for _, found in walk(node) if isinstance(found, ScalarNode))
    return next((scalar.mark for scalar in scalars if scalar.text and repr(scalar.text) in message), node.mark)


def _first_sentence(text: str) -> str | None:
    """Return the first sentence of a description, for a hint."""
    sentence = text.partition(". ")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:] or None


def _words(choices: tuple[Any, ...]) -> list[str]:
    """Return all words that any of *choices* allows; none if one of them allows more than words."""
    words: list[str] = []
    for choice in choices:
        if choice is bool:
            words += ["true", "false"]
        elif typing.get_origin(choice) is typing.Literal:
            words += map(str, typing.get_args(choice))
        else:
            return []
    return words
