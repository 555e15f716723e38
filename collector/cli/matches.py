"""
What ``collector list MATCH…`` matches, as coredumpctl does.

Of one kind, any may fit; of each kind given, one has to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from collector.archive.summary import IncidentSummary
from collector.cli.wildcards import fits_any
from collector.model.errors import UsageError
from collector.model.knowledge import UNIT_SUFFIXES
from collector.model.owners import user_of
from collector.model.signals import NAMES, signal_number
from collector.model.units import quote

HIGHEST_SIGNAL = 64
_ID = re.compile(r"\d{8}(?:T\d{0,6}(?:\.\d{0,6}Z?)?(?:-[0-9a-f]{0,6})?)?", re.ASCII)
_ID_END = re.compile(r"(?=.*[0-9])(?=.*[a-f])[0-9a-f]{6}", re.ASCII)
"""As lists on terminals show it; of digits alone, it is a PID."""

_KEY = re.compile(r"(?:COREDUMP_)?([A-Z_]+)=(.*)", re.DOTALL | re.IGNORECASE)
"""coredumpctl has its keys with a prefix."""

_LABEL = re.compile(r"label\.([a-z_][a-z0-9_]*)=(.*)", re.DOTALL)
LABEL = "label."

PID_DIGITS = 7
"""The highest PID is 4194304. Source: proc_sys_kernel(5), ``pid_max``."""


class IncidentMatch(msgspec.Struct, frozen=True):
    """A fact of an incident, by its key in `FACTS`, and what it is to be."""

    key: str
    wanted: str


def parse_match(text: str) -> IncidentMatch:
    """
    Return what *text* asks for: ``KEY=VALUE``, or a value whose kind shows.

    Raises:
        UsageError: If there is no such key or signal.
    """
    if (label := _LABEL.fullmatch(text)) is not None:
        return IncidentMatch(LABEL + label[1], label[2])
    if (found := _KEY.fullmatch(text)) is not None:
        key, wanted = found[1].lower(), found[2]
        if key not in FACTS:
            raise UsageError(
                f"incidents have no {quote(found[1])}", hint=f"use one of {', '.join(FACTS).upper()}, label.NAME"
            )
    else:
        key, wanted = _kind_of(text), text
    if key == "signal":
        try:
            return IncidentMatch(key, str(signal_number(wanted.upper())))
        except ValueError as exc:
            raise UsageError(str(exc)) from exc
    if key == "id":
        return IncidentMatch(key, f"*{wanted}" if _ID_END.fullmatch(wanted) else f"{wanted}*")
    return IncidentMatch(key, wanted)


def fits(summary: IncidentSummary, matches: Iterable[IncidentMatch], signature: Callable[[], str]) -> bool:
    """Return whether one of each kind of *matches* fits; *signature* returns that of the incident."""
    kinds: dict[str, list[str]] = {}
    for match in matches:
        kinds.setdefault(match.key, []).append(match.wanted)
    return all(_fits(key, summary, wanted, signature) for key, wanted in kinds.items())


def _fits(key: str, summary: IncidentSummary, wanted: list[str], signature: Callable[[], str]) -> bool:
    if key == "signature":
        values = [signature()]
    elif key.startswith(LABEL):
        values = [value for name, value in summary.labels.items() if name == key.removeprefix(LABEL)]
    else:
        values = [str(value) for value in FACTS[key](summary) if value is not None]
    return fits_any(values, wanted)


def _kind_of(text: str) -> str:
    if text.isascii() and text.isdecimal() and len(text) <= PID_DIGITS:
        return "signal" if 0 < int(text[:9]) <= HIGHEST_SIGNAL else "pid"
    if text.startswith("sig1:"):
        return "signature"
    if text in NAMES.values() or f"SIG{text}" in NAMES.values() or text.startswith(("SIGRTM", "RTM")):
        return "signal"
    if _ID.fullmatch(text) or _ID_END.fullmatch(text):
        return "id"
    if "/" in text:
        return "exe"
    return "unit" if text.endswith(UNIT_SUFFIXES) else "comm"


def _names(summary: IncidentSummary) -> tuple[str | None, ...]:
    return summary.comm, summary.exe and summary.exe.rpartition("/")[2]


FACTS: dict[str, Callable[[IncidentSummary], tuple[object, ...]]] = {
    "pid": lambda one: (one.pid,),
    "comm": _names,
    "exe": lambda one: (one.exe,),
    "unit": lambda one: (one.unit,),
    "signal": lambda one: (one.signal,),
    "uid": lambda one: (one.uid,),
    "owner": lambda one: (one.owner, user_of(one.owner)),
    "state": lambda one: (one.state,),
    "trigger": lambda one: (one.trigger,),
    "missing": lambda one: tuple(missing.step for missing in one.missing),
    "id": lambda one: (one.id,),
    "signature": lambda _: (),
}
"""What can be asked for; the signature is in another file."""
