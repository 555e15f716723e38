"""The sentence that a person reads of an event in the journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from collector.daemon.log_kinds import KINDS
from collector.model.signals import signal_name
from collector.model.text import printable
from collector.model.units import counted, format_seconds, size

SENTENCE_LENGTH = 2048
SHORT = 6
"""Of an incident's id, as many last characters name it on the command line."""

Fields = Mapping[str, Any]


def sentence(event: str, fields: Fields) -> str:
    """Return one printable line about *event*, from its table entry, else from its *fields*."""
    kind = KINDS.get(event)
    if kind is None:
        text = " ".join((f"{event}:", *(f"{name}={value}" for name, value in fields.items())))
    else:
        text = kind.sentence.format_map(_Words(fields))
    return printable(text, limit=SENTENCE_LENGTH)


class _Words(dict[str, Any]):
    """The fields of an event, and what `DERIVED` makes of them."""

    def __getitem__(self, name: str) -> str:
        if name in DERIVED:
            return DERIVED[name](self)
        value = self.get(name)
        if isinstance(value, list | tuple):
            return "; ".join(map(str, value))
        return "?" if value is None else str(value)


def _crash(fields: Fields) -> str:
    """Return who crashed and how: ``engine[4711] died by SIGSEGV``; else what the occasion was."""
    who, occasion = _who(fields), str(fields.get("occasion") or "")
    if (number := fields.get("signal")) is not None:
        return f"{who or 'a process'} died by {signal_name(number)}"
    if (status := fields.get("exit_status")) is not None:
        return f"{who or 'a process'} exited with status {status}"
    return ": ".join(filter(None, (who, occasion))) or "a crash"


def _who(fields: Fields) -> str:
    pid, name = fields.get("pid"), fields.get("comm") or fields.get("unit") or fields.get("user_unit") or ""
    if pid is None:
        return str(name)
    return f"{name}[{pid}]" if name else f"process {pid}"


def _because(fields: Fields) -> str:
    """Return the reason, unless that is what the occasion was."""
    reason = fields.get("reason")
    return f": {reason}" if reason and reason != fields.get("occasion") else ""


def _retried(fields: Fields) -> str:
    """Return when what failed is tried again, if it is."""
    if (pause_s := fields.get("retry_s")) is not None:
        return f"; tried again in {format_seconds(pause_s)}"
    tries = fields.get("tries", 0)
    return f"; given up after {tries} {'try' if tries == 1 else 'tries'}"


def _after(name: str, form: str) -> Callable[[Fields], str]:
    """Return what writes the field *name* by *form*, and nothing if there is none."""
    return lambda fields: form.format(fields[name]) if fields.get(name) else ""


DERIVED: dict[str, Callable[[Fields], str]] = {
    "crash": _crash,
    "short": lambda fields: str(fields.get("incident", ""))[-SHORT:],
    "times": lambda fields: "once" if fields.get("count") == 1 else f"{fields.get('count')} times",
    "duration": lambda fields: f"{fields.get('duration_s', 0.0):.3f} s",
    "digested": lambda fields: (
        f"{counted(n, 'digest')} added" if (n := fields.get("digests")) else "no digest is missing"
    ),
    "retried": _retried,
    "beyond": _after("over_budget", "; over budget: {}"),
    "size": lambda fields: size(fields.get("size_bytes", 0)),
    "because": _because,
    "advice": _after("hint", " ({})"),
    "under_way": _after("running", "; under way: {}"),
}
