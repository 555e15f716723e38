"""Typed values as the file would write them: the inverse of `convert`."""

from __future__ import annotations

import enum
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from collector.config.keys import is_record, keys_of
from collector.config.nodes import NULLS, MappingNode, plain
from collector.model import units

FORMATS: dict[object, Callable[[Any], str]] = {
    units.Bytes: units.format_bytes,
    units.Seconds: units.format_seconds,
    units.Reserve: units.format_reserve,
    units.Rate: units.format_rate,
}
# Words that need no quotes under any version of YAML.
_BARE = re.compile(r"[A-Za-z/._][A-Za-z0-9/._@+-]*", re.ASCII)
_AMOUNT = re.compile(r"[0-9][0-9.]*(?:[A-Za-z]+(?:/s)?|%)", re.ASCII)
_WORDS = NULLS | {"true", "false", "yes", "no", "on", "off", "y", "n"}


def written(value: Any, annotation: Any) -> Any:  # noqa: PLR0911 - one return per kind of type
    """Return *value* of type *annotation* as strings, numbers, lists and dicts, units as text."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if value is None:
        return None
    if annotation in FORMATS:
        return FORMATS[annotation](value)
    if origin is typing.Annotated:
        return written(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return written(value, next(each for each in arguments if each is not type(None)))
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, MappingNode):
        return plain(value)
    if is_record(annotation):
        keys, rest = keys_of(annotation).values(), getattr(annotation, "rest", None)
        known = {key.name: written(getattr(value, key.attribute), key.annotation) for key in keys}
        return known | (written(getattr(value, rest), MappingNode) if rest else {})
    if isinstance(value, dict):
        return {key: written(item, arguments[1]) for key, item in value.items()}
    if isinstance(value, (tuple, list, frozenset)):
        return [written(item, arguments[0]) for item in value]
    return value


def _quoted(text: str) -> str:
    """Return *text* in double quotes; JSON's escapes are YAML's, except for characters beyond 16 bits."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in escaped)


def inline(value: Any) -> str:
    """Return a value as YAML on one line; text that could be misread is quoted."""
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inline(key)}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        bare = (_BARE.fullmatch(value) and value.lower() not in _WORDS) or _AMOUNT.fullmatch(value)
        return value if bare else _quoted(value)
    return json.dumps(value)
