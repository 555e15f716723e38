"""
JSON Schema (draft 2020-12) of the file, made from the types that load it.

It has what an editor can check: keys, types, units, bounds, and the options of each collector and
trigger by its name. Only the loader checks references (a pipeline's name) and unique ids.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from collector.config.dump import written
from collector.config.keys import MISSING, Key, keys_of, summary_of
from collector.config.nodes import MappingNode
from collector.config.spec import Config, Defaults, PipelineSpec, StepSpec, TriggerSpec
from collector.model import units

Schema = dict[str, Any]

_WHOLE: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number", "minimum": 0}


def _text(pattern: str, *examples: str) -> Schema:
    return {"type": "string", "pattern": f"^(?:{pattern})$", "examples": list(examples)}


UNIT_SCHEMAS: dict[object, Schema] = {
    units.Bytes: {"anyOf": [_WHOLE, _text(units.SIZE_PATTERN, "64MiB", "1GB")]},
    units.Seconds: {"anyOf": [_NUMBER, _text(units.DURATION_PATTERN, "30s", "10m", "14d")]},
    units.Reserve: _text(f"{units.PERCENT_PATTERN}|{units.SIZE_PATTERN}", "5%", "20GiB"),
    units.Rate: _text(f"adaptive|max|(?:{units.SIZE_PATTERN})/s", "adaptive", "max", "200MiB/s"),
}
_SIMPLE: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
    MappingNode: {"type": "object"},
}


def schema_of(collectors: Mapping[str, type], triggers: Mapping[str, type]) -> Schema:
    """Return the schema of the whole file; *collectors* and *triggers* are the registries."""
    builder = _Builder(collectors, triggers)
    top = builder.record(Config)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "collector configuration",
        **top,
        "$defs": dict(sorted(builder.definitions.items())),
    }


class _Builder:
    """Turns types into schemas; those of collectors and triggers are shared by reference."""

    def __init__(self, collectors: Mapping[str, type], triggers: Mapping[str, type]) -> None:
        self._collectors = dict(sorted(collectors.items()))
        self._triggers = dict(sorted(triggers.items()))
        self.definitions = {
            **{f"collector.{name}": self.record(cls) for name, cls in self._collectors.items()},
            **{f"trigger.{name}": self._trigger(cls) for name, cls in self._triggers.items()},
        }

    def record(self, cls: type, default: object = None) -> Schema:
        """Return the schema of a struct or a dataclass; *default* is its value where it is left out."""
        keys = keys_of(cls)
        schema: Schema = {
            "type": "object",
            "description": summary_of(cls).partition("\n\n")[0],
            "properties": {name: self._key(key, default) for name, key in keys.items()},
            "additionalProperties": False,
        }
        required = [name for name, key in keys.items() if key.default is MISSING]
        return schema | ({"required": required} if required else {}) | self._special(cls, schema)

    def _special(self, cls: type, schema: Schema) -> Schema:
        """Return what depends on a registry: the options that go with each name."""
        properties = schema["properties"]
        if cls is StepSpec:
            properties["collector"]["enum"] = list(self._collectors)
            return {"allOf": [self._option(name) for name in self._collectors]}
        if cls is Config:
            return {"required": ["version", "pipelines"]}
        if cls is PipelineSpec:
            properties["steps"]["minItems"] = 1
        if cls is Defaults:
            properties["with"] = {
                "type": "object",
                "description": properties["with"]["description"],
                "properties": {name: _loose(self.definitions[f"collector.{name}"]) for name in self._collectors},
                "additionalProperties": False,
            }
        if cls is TriggerSpec:
            # One complete schema per type: its own keys stand beside the common ones.
            return {
                "properties": properties | {"type": properties["type"] | {"enum": list(self._triggers)}},
                "additionalProperties": True,
                "allOf": [_where("type", name, {"$ref": f"#/$defs/trigger.{name}"}) for name in self._triggers],
            }
        return {}

    def _trigger(self, cls: type) -> Schema:
        """Return the schema of one type of trigger, common keys included."""
        own = self.record(cls)
        common = keys_of(TriggerSpec)
        return own | {"properties": own["properties"] | dict.fromkeys(common, True)}

    def _key(self, key: Key, owner: object) -> Schema:
        value = key.default if owner is None else getattr(owner, key.attribute)
        schema = dict(self._value(key.annotation, value))
        if key.description:
            schema["description"] = key.description
        default = None if value is MISSING else written(value, key.annotation)
        if default is not None and not isinstance(default, dict):
            schema["default"] = default
        return schema

    def _value(self, annotation: Any, default: Any = None) -> Schema:  # noqa: PLR0911 - one return per kind of type
        """Return the schema of a value of type *annotation*."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation in UNIT_SCHEMAS:
            return UNIT_SCHEMAS[annotation]
        if origin is typing.Annotated:
            return self._value(arguments[0]) | _bounds(arguments)
        if origin in (typing.Union, types.UnionType):
            choices = [{"type": "null"} if each is type(None) else self._value(each) for each in arguments]
            return {"anyOf": choices}
        if origin is typing.Literal:
            return {"enum": list(arguments)}
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return {"enum": [member.value for member in annotation]}
        if origin in (tuple, list, frozenset):
            return {"type": "array", "items": self._value(arguments[0])}
        if origin is dict:
            return {
                "type": "object",
                "propertyNames": self._value(arguments[0]),
                "additionalProperties": self._value(arguments[1]),
            }
        return _SIMPLE.get(annotation) or self.record(annotation, None if default is MISSING else default)

    def _option(self, name: str) -> Schema:
        """Return the rule that `with` holds the options of collector *name*."""
        reference = f"collector.{name}"
        then: Schema = {"properties": {"with": {"$ref": f"#/$defs/{reference}"}}}
        if self.definitions[reference].get("required"):
            then["required"] = ["with"]
        return _where("collector", name, then)


def _where(key: str, value: str, then: Schema) -> Schema:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}


def _loose(schema: Schema) -> Schema:
    """Return *schema* without required keys: for a part of what it describes."""
    return {key: value for key, value in schema.items() if key != "required"}


def _bounds(notes: tuple[Any, ...]) -> Schema:
    """Return what `msgspec.Meta` says; text with a unit is compared by the loader only."""
    if notes[0] in UNIT_SCHEMAS:
        return {}
    names = {"ge": "minimum", "le": "maximum", "pattern": "pattern"}
    extra = {key: value for meta in notes[1:] for key, value in (meta.extra_json_schema or {}).items()}
    found = (
        (word, getattr(meta, name))
        for meta in notes[1:]
        if isinstance(meta, msgspec.Meta)
        for name, word in names.items()
    )
    return {word: bound for word, bound in found if bound is not None} | extra
