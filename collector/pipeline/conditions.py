"""Conditions on a marker: whether a step is meant for this crash."""

from __future__ import annotations

import fnmatch
import signal
from dataclasses import dataclass

from collector.model.marker import Marker

MANUAL = "manual"
"""The trigger of ``collector run --now``, in a marker and in conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """
    All that are given must hold; each holds alternatives.

    Args:
        comm: Globs for the command name.
        exe: Globs for the path of the executable.
        signals: Numbers of signals.
        triggers: Ids of triggers; one of those that saw the crash is enough.
        units: Globs for the systemd unit.
    """

    comm: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    signals: tuple[int, ...] = ()
    triggers: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def holds(self, marker: Marker) -> str | None:
        """Return ``None`` if *marker* meets all conditions, else the reason why not."""
        for name, globs, value in (
            ("comm", self.comm, marker.comm),
            ("exe", self.exe, marker.exe),
            ("unit", self.units, marker.unit),
        ):
            if globs and (value is None or not any(fnmatch.fnmatchcase(value, glob) for glob in globs)):
                return _mismatch(name, repr(value) if value is not None else "unknown", globs)
        if self.signals and marker.signal not in self.signals:
            known = signal_name(marker.signal) if marker.signal is not None else "unknown"
            return _mismatch("signal", known, tuple(map(signal_name, self.signals)))
        seen_by = (marker.trigger, *marker.joined)
        if self.triggers and not set(seen_by) & set(self.triggers):
            return _mismatch("trigger", " and ".join(map(repr, seen_by)), self.triggers)
        return None

    def text(self) -> str:
        """Say all conditions in words; empty if there are none."""
        given = {
            "comm": self.comm,
            "exe": self.exe,
            "unit": self.units,
            "signal": tuple(map(signal_name, self.signals)),
            "trigger": self.triggers,
        }
        return ", ".join(f"{name} is {' or '.join(wanted)}" for name, wanted in given.items() if wanted)


ALWAYS = Conditions()


def _mismatch(name: str, value: str, wanted: tuple[str, ...]) -> str:
    return f"{name} is {value}, not " + " or ".join(wanted)


def signal_number(text: str) -> int:
    """
    Return the number of a signal named as ``SIGSEGV``, ``SEGV`` or ``11``.

    Raises:
        ValueError: If no signal is named so.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 2:
        return int(signal.Signals(int(text)))
    try:
        return int(signal.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except KeyError as exc:
        raise ValueError(f"no signal is named {text!r}") from exc


def signal_name(number: int) -> str:
    """Return ``SIGSEGV`` for 11, and the number itself where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
