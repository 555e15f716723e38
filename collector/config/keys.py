"""The YAML keys of a struct or a dataclass: its fields with their types, defaults and descriptions."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from functools import cache
from typing import Any

import msgspec

MISSING = msgspec.NODEFAULT

_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """
    One key.

    Args:
        name: As the file writes it.
        attribute: As Python writes it: with a unit (``wait_s``), or with a final ``_`` where *name* is a keyword.
        annotation: Its type, `typing.Annotated` included.
        default: Its value if left out; `MISSING` if it is required.
        description: From the ``Args`` of the docstring; may be empty.
    """

    name: str
    attribute: str
    annotation: Any
    default: Any
    description: str


def is_record(annotation: object) -> bool:
    """Return whether *annotation* is a type with keys of its own."""
    return isinstance(annotation, type) and (
        issubclass(annotation, msgspec.Struct) or dataclasses.is_dataclass(annotation)
    )


def keys_of(cls: type) -> dict[str, Key]:
    """Return the keys of *cls*, in the order of its fields, by the name that the file uses."""
    return _keys_of(cls)  # mypy does not take a `type` for Hashable, which `cache` asks for


@cache
def _keys_of(cls: type) -> dict[str, Key]:
    hints = typing.get_type_hints(cls, include_extras=True)
    described = _descriptions(cls)
    keys = [
        Key(
            name=name,
            attribute=attribute,
            annotation=hints[attribute],
            default=default,
            description=described.get(attribute, "") or described.get(name, ""),
        )
        for name, attribute, default in _fields(cls)
        if attribute != getattr(cls, "rest", None)
    ]
    return {key.name: key for key in keys}


def _fields(cls: type) -> list[tuple[str, str, Any]]:
    """Return key, attribute and default of the fields of *cls*."""
    if issubclass(cls, msgspec.Struct):
        return [(field.encode_name, field.name, _default(field)) for field in msgspec.structs.fields(cls)]
    fields = [field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init]
    return [(field.name.removesuffix("_"), field.name, _default(field)) for field in fields]


def _default(field: Any) -> Any:
    for value in (field.default, field.default_factory):
        if value is dataclasses.MISSING or value is msgspec.NODEFAULT:
            continue
        return value() if value is field.default_factory else value
    return MISSING


def summary_of(cls: type) -> str:
    """Return the docstring of *cls* up to its arguments, one line per paragraph."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:\n")[0]
    return "\n\n".join(map(_prose, text.strip().split("\n\n")))


def _descriptions(cls: type) -> dict[str, str]:
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:\n")[2]
    return {name: _prose(words) for name, words in _ARGUMENT.findall(text)}


def _prose(text: str) -> str:
    """Return *text* on one line, with code marked as in Markdown."""
    return " ".join(text.split()).replace("``", "`")
