"""What a trigger's markers can say about a process, and which conditions therefore can never hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import msgspec

from collector.model.identity import COMM_LENGTH
from collector.model.signals import signal_name, signal_number
from collector.model.units import quote

Fact = Literal["comm", "exe", "signal", "unit"]
FACTS: tuple[Fact, ...] = get_args(Fact)

# Source: systemd.unit(5). A process of no unit is known by the path of its cgroup.
UNIT_SUFFIXES = (
    ".service", ".scope", ".socket", ".mount", ".automount", ".swap", ".timer", ".path", ".target", ".slice", ".device",
)  # fmt: skip
_WILD = "*?["


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the markers of a trigger can say; "can" means that some do.

    Args:
        facts: Those that a marker may hold.
        signals: Those that may be the fact ``signal``; ``None`` for all.
        free_text: Whoever reports the crash writes the names: they may have any form and length.
    """

    facts: frozenset[Fact] = frozenset()
    signals: frozenset[int] | None = None
    free_text: bool = False


NOTHING = Knowledge()


class Misfit(NamedTuple):
    """Why no marker has a value, and what to write instead."""

    reason: str
    hint: str


def misfit(fact: Fact, wanted: str, known: Iterable[Knowledge]) -> Misfit | None:
    """
    Return why the value or glob *wanted* never fits; ``None`` if it may.

    Args:
        fact: What it is compared with.
        wanted: As in the file; a signal must exist.
        known: What those know who can tell the fact.
    """
    known = tuple(known)
    if fact == "signal":
        number = signal_number(wanted)
        if any(each.signals is None or number in each.signals for each in known):
            return None
        return Misfit(f"{signal_name(number)} is none of the signals that are reported", "remove it")
    if any(each.free_text for each in known):
        return None
    return {"comm": _misfit_of_comm, "exe": _misfit_of_exe, "unit": _misfit_of_unit}[fact](wanted)


def _misfit_of_comm(glob: str) -> Misfit | None:
    # What is not printable is shown with backslashes, in more characters than the kernel keeps.
    shortest = re.sub(r"\[!?\]?[^\]]*\]", "?", glob).replace("*", "").encode(errors="surrogateescape")
    if len(shortest) <= COMM_LENGTH or "\\" in glob:
        return None
    cut = glob.encode(errors="surrogateescape")[:COMM_LENGTH].decode(errors="ignore")
    shorter = "shorten it" if set(glob) & set(_WILD) else f"write {quote(cut)}"
    return Misfit(f"the kernel keeps {COMM_LENGTH} characters of a command name", f"{shorter}, or use `exe`")


def _misfit_of_exe(glob: str) -> Misfit | None:
    if glob[:1] in {"/", *_WILD}:
        return None
    return Misfit("it is compared with the whole path of the executable", f"write {quote(f'*/{glob}')}")


def _misfit_of_unit(glob: str) -> Misfit | None:
    if glob[:1] in {"/", *_WILD} or glob.endswith((*UNIT_SUFFIXES, "*", "?", "]")):
        return None
    return Misfit("it is compared with the whole name of the unit", f"write {quote(f'{glob}.service')}")
