"""Single values: what text in the file means where a number, a size, a boolean or a choice is expected."""

from __future__ import annotations

import enum
import itertools
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from collector.config.dump import FORMATS
from collector.config.nodes import ScalarNode
from collector.model import units
from collector.model.nearest import nearest

UNITS: dict[object, Callable[[str], Any]] = {
    units.Bytes: units.parse_bytes,
    units.Seconds: units.parse_seconds,
    units.Reserve: units.parse_reserve,
    units.Rate: units.parse_rate,
}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?", re.ASCII)
_YAML_1_1_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}

MAX_SUGGESTIONS = 50
"""Words that one is compared with, so that a thousand mistakes are reported quickly."""


class Misread(ValueError):  # noqa: N818 - caught where the place is known
    """Text that is not of the expected type; *hint* is what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def suggest(word: str, known: Iterable[str]) -> str | None:
    """Return the word of *known* that was probably meant, or all of them if none is close."""
    known = list(itertools.islice(known, MAX_SUGGESTIONS))
    if (meant := nearest(word, known)) is not None:
        return f"did you mean {meant}?"
    return f"one of {', '.join(known)}" if known else None


def read_scalar(node: ScalarNode, annotation: Any, name: str) -> Any:
    """
    Return the value of one text.

    Raises:
        Misread: If it is not of type *annotation*.
    """
    text = node.text
    if annotation in UNITS:
        try:
            return UNITS[annotation](text)
        except ValueError as exc:
            raise Misread(f"`{name}`: {exc}", _sexagesimal(text) if annotation is units.Seconds else None) from exc
    if typing.get_origin(annotation) is typing.Literal:
        return _choice(text, {str(choice): choice for choice in typing.get_args(annotation)}, name)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _choice(text, {str(member.value): member for member in annotation}, name)
    if annotation is str:
        return text
    if annotation in (int, float, bool):
        if not node.plain:
            raise Misread(f"`{name}` must be {_WORDS[annotation]}, not text in quotes", "remove the quotes")
        return _READERS[annotation](text, name)
    raise TypeError(f"no way to read {annotation!r} from a file")  # a type that a collector may not use


def _sexagesimal(text: str) -> str | None:
    """Return how to write a duration that has colons, which YAML 1.1 reads as a number in base 60."""
    parts = [int(part) for part in text.split(":")] if re.fullmatch(r"[0-9]{1,4}(:[0-5]?[0-9]){1,2}", text) else []
    words = {2: f"{parts[0]}m{parts[1]}s, or {parts[0]}h{parts[1]}m"} if len(parts) == 2 else {}
    return f"write {words.get(2) or '{}h{}m{}s'.format(*parts)}" if parts else None


def _choice(text: str, choices: dict[str, Any], name: str) -> Any:
    if text not in choices:
        raise Misread(f"`{name}` cannot be {units.quote(text)}", suggest(text, choices))
    return choices[text]


def _bool(text: str, name: str) -> bool:
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    meant = _YAML_1_1_BOOLEANS.get(text.lower())
    meant = meant or {"1": "true", "0": "false"}.get(text)
    raise Misread(f"`{name}` must be true or false, not {units.quote(text)}", f"write {meant}" if meant else None)


def _int(text: str, name: str) -> int:
    if not _INTEGER.fullmatch(text):
        octal = re.fullmatch(r"0+([1-9][0-9]*)", text)
        hint = f"write {octal[1]}; a leading 0 means octal to some readers" if octal else _digits(text)
        raise Misread(f"`{name}` must be a whole number, not {units.quote(text)}", hint)
    return int(text)


def _digits(text: str) -> str | None:
    """Return how to write a number that has separators or another base."""
    if re.fullmatch(r"[1-9][0-9]{0,2}([_,' ][0-9]{3}){1,5}", text):
        return f"write {re.sub('[^0-9]', '', text)}"
    if found := re.fullmatch(r"0(x[0-9A-Fa-f]{1,12}|o[0-7]{1,12}|b[01]{1,40})", text):
        return f"write {int(found[0], 0)}"
    return None


def _float(text: str, name: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise Misread(f"`{name}` must be a number, not {units.quote(text)}")
    return float(text)


_READERS: dict[type, Callable[[str, str], Any]] = {bool: _bool, int: _int, float: _float}
_WORDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number"}


def objection_to(value: Any, inner: Any, meta: msgspec.Meta) -> str | None:
    """Return why *meta* does not allow *value*; ``None`` if it does."""
    show = FORMATS.get(inner, str)
    if meta.ge is not None and value < meta.ge:
        return f"must be at least {show(meta.ge)}, not {show(value)}"
    if meta.le is not None and value > meta.le:
        return f"must be at most {show(meta.le)}, not {show(value)}"
    if meta.pattern is not None and not re.search(meta.pattern, value):
        return f"cannot be {units.quote(value)}: {_PATTERNS.get(meta.pattern, f'it must match {meta.pattern}')}"
    return None


_PATTERNS = {
    r"^/": "it is not an absolute path",
    r"^(/.*[^/]\.prom)?$": "it must be an absolute path that ends in .prom, which is all that node_exporter reads",
    r"^[a-z0-9][a-z0-9_-]{0,62}$": "use lowercase letters, digits, _ and -, at most 63 characters",
    r"^[a-z_][a-z0-9_]{0,62}$": "use lowercase letters, digits and _, at most 63 characters, and no digit first",
    r"^[^\x00-\x1f\x7f-\x9f]{1,256}$(?!\n)": "write 1 to 256 characters on one line",
}
