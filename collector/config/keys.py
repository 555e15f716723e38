"""The YAML keys of a type: what a struct or a dataclass calls its fields, with their types and descriptions."""

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
        name: As the file writes it; ``with`` and ``from`` are keywords, so their fields end in ``_``.
        attribute: As Python writes it.
        annotation: Its type, `typing.Annotated` included.
        default: Its value if left out; `MISSING` if it may not be.
        description: From the ``Args`` of the docstring; empty if it says nothing.
    """

    name: str
    attribute: str
    annotation: Any
    default: Any
    description: str


def is_record(annotation: object) -> bool:
    """Tell whether *annotation* is a type with keys of its own."""
    return isinstance(annotation, type) and (
        issubclass(annotation, msgspec.Struct) or dataclasses.is_dataclass(annotation)
    )


def keys_of(cls: type) -> dict[str, Key]:
    """Return the keys of *cls*, in the order of its fields, by the name that the file uses."""
    return _keys_of(cls)


@cache
def _keys_of(cls: type) -> dict[str, Key]:
    hints = typing.get_type_hints(cls, include_extras=True)
    described = _descriptions(cls)
    keys = [
        Key(
            name=name.removesuffix("_"),
            attribute=name,
            annotation=hints[name],
            default=default,
            description=described.get(name, "") or described.get(name.removesuffix("_"), ""),
        )
        for name, default in _fields(cls)
        if name != getattr(cls, "rest", None)
    ]
    return {key.name: key for key in keys}


def _fields(cls: type) -> list[tuple[str, Any]]:
    """Return names and defaults of the fields of *cls*."""
    if issubclass(cls, msgspec.Struct):
        fields: list[Any] = list(msgspec.structs.fields(cls))
    else:
        fields = [field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init]
    return [(field.name, _default(field)) for field in fields]


def _default(field: Any) -> Any:
    """Return the default value of a field of either kind of class."""
    for value in (field.default, field.default_factory):
        if value is dataclasses.MISSING or value is msgspec.NODEFAULT:
            continue
        return value() if value is field.default_factory else value
    return MISSING


def summary_of(cls: type) -> str:
    """Return what the docstring of *cls* says before its arguments, on one line per paragraph."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:\n")[0]
    return "\n\n".join(map(_prose, text.strip().split("\n\n")))


def _descriptions(cls: type) -> dict[str, str]:
    """Return the ``Args`` of the docstring of *cls*."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:\n")[2]
    return {name: _prose(words) for name, words in _ARGUMENT.findall(text)}


def _prose(text: str) -> str:
    """Return *text* on one line, with code marked as Markdown does."""
    return " ".join(text.split()).replace("``", "`")
