"""Conditions on a marker: whether a step applies to a crash."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from collector.model.constrained import Signal
from collector.model.knowledge import FACTS, Fact, Knowledge, misfit
from collector.model.marker import Marker
from collector.model.signals import signal_name, signal_number

MANUAL = "manual"
"""The trigger of ``collector run --now``, in a marker and in conditions."""


BY_HAND = "a run by hand"
"""Its name in messages."""


class Impossible(NamedTuple):
    """
    Conditions on *fact* that can never hold, or only alternative *number* of them, counted from 0, and why.

    *wanted* is that alternative as it stands in the file; *hint* is what to write instead.
    """

    fact: Fact
    reason: str
    hint: str | None = None
    wanted: str = ""
    number: int | None = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Conditions on what crashed; all that are given must hold. Lists hold alternatives.

    A marker that lacks the fact (memory pressure has no unit) does not match.

    Args:
        comm: Globs for the name of the process, or of the thread that crashed (at most 15 characters, as the kernel
            keeps it).
        exe: Globs for the path of the executable.
        signal: Signals that killed the process, such as ``SIGSEGV`` or ``11``.
        trigger: Ids of triggers, one of which saw the crash; ``manual`` is ``collector run --now``.
        unit: Globs for the systemd unit.
    """

    comm: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    signal: tuple[Signal, ...] = ()
    trigger: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()

    def holds(self, marker: Marker) -> str | None:
        """Return ``None`` if *marker* meets all conditions, else why not."""
        for name, globs, *values in (
            ("comm", self.comm, marker.comm, marker.thread_comm),
            ("exe", self.exe, marker.exe),
            ("unit", self.unit, marker.unit),
        ):
            names = [value for value in values if value is not None]
            if globs and not any(fnmatch.fnmatchcase(value, glob) for value in names for glob in globs):
                return _mismatch(name, " and ".join(map(repr, names)) or "unknown", globs)
        if self.signal and marker.signal not in set(map(signal_number, self.signal)):
            known = signal_name(marker.signal) if marker.signal is not None else "unknown"
            return _mismatch("signal", known, self._signals())
        seen_by = (marker.trigger, *marker.joined)
        if self.trigger and not set(seen_by) & set(self.trigger):
            return _mismatch("trigger", " and ".join(map(repr, seen_by)), self.trigger)
        return None

    def impossible(self, sources: Mapping[str, Knowledge]) -> Iterator[Impossible]:
        """Yield what can never hold if only *sources* report crashes: by trigger id, what each of them knows."""
        who = " and ".join(trigger for trigger in sources if trigger != MANUAL) or BY_HAND
        for fact in FACTS:
            known = [each for each in sources.values() if fact in each.facts]
            alternatives: tuple[str, ...] = getattr(self, fact)
            if alternatives and not known:
                yield Impossible(fact, f"{who} cannot tell the {fact}")
            for number, wanted in enumerate(alternatives if known else ()):
                if (why := misfit(fact, wanted, known)) is not None:
                    yield Impossible(fact, why.reason, why.hint, wanted, number)

    def never(self, sources: Mapping[str, Knowledge]) -> str | None:
        """Return why the conditions as a whole can never hold for *sources*; ``None`` if they can."""
        found = list(self.impossible(sources))
        for fact in FACTS:
            these = [each for each in found if each.fact == fact]
            if these and (these[0].number is None or len(these) == len(getattr(self, fact))):
                return these[0].reason
        return None

    def text(self) -> str:
        """Return all conditions in words; empty if there are none."""
        given = msgspec.structs.asdict(self) | {"signal": self._signals()}
        return ", ".join(f"{name} is {' or '.join(wanted)}" for name, wanted in given.items() if wanted)

    def _signals(self) -> tuple[str, ...]:
        return tuple(signal_name(signal_number(text)) for text in self.signal)


ALWAYS = Conditions()


def _mismatch(name: str, value: str, wanted: tuple[str, ...]) -> str:
    return f"{name} is {value}, not " + " or ".join(wanted)
