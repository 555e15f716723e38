"""
Sizes, durations, shares and rates, as people write them.

Collectors and triggers use these types for their fields, so that the YAML file can say ``64MiB`` or
``30s``. They are for the reader and the type checker only: at run time a `Bytes` is an int and a
`Seconds` a float.

The parsers raise `ValueError` with a sentence for the author of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, NewType

import msgspec

Bytes = NewType("Bytes", int)
"""A size; in the file ``64MiB``, ``1GB`` or a number of bytes."""

Seconds = NewType("Seconds", float)
"""A duration; in the file ``30s``, ``10m``, ``1h30m``, ``14d`` or a number of seconds."""

Rate = Annotated[str | int, "rate"]
"""How fast to copy: ``adaptive``, ``max``, or bytes per second, in the file a size per second such as ``200MiB/s``."""

# Spelled out: "64M" is refused, because half the world reads it as 64e6.
BYTE_UNITS = {
    "B": 1,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
}  # fmt: skip
SECOND_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

# No leading zero: 010 is eight to YAML 1.1 and ten to people.
NUMBER = r"(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,9})?"
SIZE_PATTERN = rf"{NUMBER} ?(?:{'|'.join(BYTE_UNITS)})"
DURATION_PATTERN = rf"(?:{NUMBER}(?:{'|'.join(SECOND_UNITS)}))+"
PERCENT_PATTERN = rf"{NUMBER} ?%"

_NUMBER = re.compile(NUMBER, re.ASCII)
_AMOUNT = re.compile(rf"({NUMBER}) ?([A-Za-z]*)", re.ASCII)
_AMOUNTS = re.compile(rf"(?:{NUMBER}[A-Za-z]+)+", re.ASCII)
_PERCENT = re.compile(PERCENT_PATTERN, re.ASCII)
MAX_BYTES = 1 << 62
MAX_SECONDS = 1e10


def parse_bytes(text: str) -> Bytes:
    """Parse a size."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{quote(text)} is not a size such as 64MiB or 1GB, or a number of bytes")
    number, unit = match.groups()
    if unit and unit not in BYTE_UNITS:
        raise ValueError(_unknown_unit(text, unit, "size", BYTE_UNITS))
    if "." in number and not unit:
        raise ValueError(f"{quote(text)} is not a whole number of bytes")
    whole, _, fraction = number.partition(".")
    factor = BYTE_UNITS[unit or "B"]
    size = int(whole) * factor + int(fraction or 0) * factor // 10 ** len(fraction)
    if size > MAX_BYTES:
        raise ValueError(f"{quote(text)} is more than any file system holds")
    return Bytes(size)


def parse_seconds(text: str) -> Seconds:
    """Parse a duration, in seconds."""
    if _NUMBER.fullmatch(text):
        seconds = float(text)
    elif _AMOUNTS.fullmatch(text) or _AMOUNT.fullmatch(text):
        seconds = 0.0
        for number, unit in _AMOUNT.findall(text):
            if unit not in SECOND_UNITS:
                raise ValueError(_unknown_unit(text, unit, "duration", SECOND_UNITS))
            seconds += float(number) * SECOND_UNITS[unit]
    else:
        raise ValueError(f"{quote(text)} is not a duration such as 30s, 10m or 14d, or a number of seconds")
    if seconds > MAX_SECONDS:
        raise ValueError(f"{quote(text)} is longer than three centuries")
    return Seconds(round(seconds, 9))


class Reserve(msgspec.Struct, frozen=True):
    """Space that is never used: a share of the file system, or a size."""

    percent: float | None = None
    size_bytes: int | None = None

    def bytes_of(self, total_bytes: int) -> int:
        """Return the reserve in bytes on a file system of *total_bytes*."""
        return int(total_bytes * (self.percent or 0) / 100) + (self.size_bytes or 0)


def parse_reserve(text: str) -> Reserve:
    """Parse a reserve."""
    if text.endswith("%"):
        if _PERCENT.fullmatch(text) is None:
            raise ValueError(f"{quote(text)} is not a share such as 5%")
        percent = float(text.removesuffix("%"))
        if percent > 100:
            raise ValueError(f"{quote(text)} is more than 100%")
        return Reserve(percent=percent)
    if _NUMBER.fullmatch(text):  # 5 bytes, where 5% was meant
        raise ValueError(f"{quote(text)} has no unit: add % or one of {', '.join(BYTE_UNITS)}")
    if _AMOUNT.fullmatch(text) is None:
        raise ValueError(f"{quote(text)} is not a share such as 5%, or a size such as 20GiB")
    return Reserve(size_bytes=parse_bytes(text))


def parse_rate(text: str) -> Rate:
    """Parse a rate."""
    if text in {"adaptive", "max"}:
        return text
    if not text.endswith("/s") or _AMOUNT.fullmatch(text[:-2]) is None:
        raise ValueError(f"{quote(text)} is not adaptive, max, or a size per second such as 200MiB/s")
    size = parse_bytes(text[:-2])
    if size == 0:
        raise ValueError("at a rate of 0 nothing would be copied")
    return size


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(size_bytes: float) -> str:
    """Write *size_bytes* for people, with the largest unit that it fills: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def mib(size: int) -> str:
    """Write *size* for people, to a tenth of a MiB: ``512.0 MiB``."""
    return f"{size / (1 << 20):.1f} MiB"


def format_bytes(size: int) -> str:
    """Write *size* with the largest binary unit that leaves it whole: ``64MiB``, ``1025B``."""
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        if size and size % BYTE_UNITS[unit] == 0:
            return f"{size // BYTE_UNITS[unit]}{unit}"
    return f"{size}B"


def format_seconds(seconds: float) -> str:
    """Write *seconds* with the largest unit that leaves it whole: ``14d``, ``90m``, ``0.25s``."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % SECOND_UNITS[unit] == 0:
            return f"{int(seconds // SECOND_UNITS[unit])}{unit}"
    return f"{seconds:.15g}s"


def format_rate(rate: Rate) -> str:
    """Write *rate* as the file does: ``adaptive``, ``200MiB/s``."""
    return rate if isinstance(rate, str) else f"{format_bytes(rate)}/s"


def format_reserve(reserve: Reserve) -> str:
    """Write *reserve* as the file does: ``5%`` or ``20GiB``."""
    return f"{reserve.percent:.15g}%" if reserve.percent is not None else format_bytes(reserve.size_bytes or 0)


def quote(text: str) -> str:
    """Return *text* for a message: quoted, escaped, and cut at 40 characters."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _unknown_unit(text: str, unit: str, what: str, units: Iterable[str]) -> str:
    """Return that *unit* is unknown, and which was probably meant."""
    if what == "size" and unit.upper() in {"K", "M", "G", "T", "P"}:
        letter = unit.upper()
        return f"{quote(text)} is ambiguous: write {letter}iB (powers of 1024) or {letter}B (powers of 1000)"
    if not unit:
        return f"{quote(text)}: a number without a unit cannot be combined with others"
    near = [known for known in units if known.lower() == unit.lower()]
    meant = f"did you mean {near[0]}?" if near else "use one of " + ", ".join(units)
    return f"{quote(text)}: {quote(unit)} is not a unit of {what}; {meant}"
