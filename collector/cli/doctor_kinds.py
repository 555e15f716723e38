"""
The kinds of crash, and which trigger would notice each: the one place that says what a kind is.

``collector doctor --strict`` goes by these. What a trigger notices without a core is noticed; a core is evidence only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from collector.cli.check import Check
from collector.cli.doctor_core_pattern import KERNEL_CORES, is_collectors
from collector.cli.doctor_cores import found_by
from collector.cli.doctor_hooks import reports_failures
from collector.daemon.messages import Status
from collector.host.core_pattern_owner import pattern_in_force
from collector.host.files import Host
from collector.model.case import CORE_SIGNALS
from collector.model.signals import signal_name, signal_number
from collector.pipeline.generation import Generation
from collector.triggers.kernel_log import KernelLog
from collector.triggers.process_exits import ExitRule, ProcessExits

SIGKILL = signal_number("KILL")


class Kind(NamedTuple):
    """
    A kind of crash: *about* names its line, *what* says it, *missing* is what to add if no trigger notices it.

    *strict*: ``--strict`` insists on it. *able* returns the triggers of a configuration that notice it.
    """

    about: str
    what: str
    missing: str
    able: Callable[[Generation, Host], list[str]]
    strict: bool = True


def kinds(generation: Generation, host: Host | None = None, *, status: Status | None = None) -> Iterator[Check]:
    """Yield which trigger notices each kind of crash; *status* says which of them work, if a daemon answers."""
    deaf = _deaf(generation, status)
    return (_noticed(kind, kind.able(generation, host or Host()), generation, deaf) for kind in KINDS)


def is_noticed_without_core(generation: Generation, status: Status | None) -> bool:
    """Return whether a crash is noticed whose core limit is 0, though only files are held to that."""
    return bool(set(_exits(generation, CORE_SIGNALS)) - set(_deaf(generation, status)))


def _noticed(kind: Kind, able: list[str], generation: Generation, deaf: dict[str, str]) -> Check:
    working = [trigger for trigger in able if trigger not in deaf]
    what = kind.what
    if working and kind.able in {_with_core, _without_core} and set(working) <= set(_chosen(generation)):
        what = f"{what} and matches the rules"
    if working:
        return Check("ok", kind.about, f"{what} is noticed by {', '.join(working)}")
    if able:
        states = sorted({deaf[trigger] for trigger in able})
        said = f"{what} is not noticed: {', '.join(states)}: {', '.join(able)}"
        return Check("warning", kind.about, said, "see the trigger, below", unnoticed=kind.strict)
    said = f"{what} is noticed by no trigger"
    if kind.able is _without_core and (lacking := _lacking(generation)):
        said = f"{what}, by {', '.join(lacking)}, is noticed by no trigger: the rules leave it out"
    return Check("warning", kind.about, said, f"add {kind.missing}", unnoticed=kind.strict)


def _deaf(generation: Generation, status: Status | None) -> dict[str, str]:
    """Return the triggers that do not work at the moment, and why; none if no daemon answers: `daemon` says that."""
    if status is None:
        return {}
    states = {one.id: status.triggers.get(one.id, "not loaded") for one in generation.triggers}
    return {one: state.partition(":")[0] for one, state in states.items() if state != "watching"}


def _with_core(generation: Generation, host: Host) -> list[str]:
    return [*found_by(generation, host), *_without_core(generation, host)]


def _without_core(generation: Generation, host: Host) -> list[str]:
    """Return who notices a crash whose core limit is 0, which the kernel holds only files to."""
    held = [one.id for one in generation.triggers if type(one.trigger).name == KERNEL_CORES]
    ours = is_collectors(generation, pattern_in_force(host))
    return [*_exits(generation, CORE_SIGNALS), *(held if ours else ())]


def _oom_kill(generation: Generation, _: Host) -> list[str]:
    return [*_logs(generation, "oom_kill"), *_exits(generation, frozenset({SIGKILL}))]


def _oops(generation: Generation, _: Host) -> list[str]:
    return _logs(generation, "oops")


def _failure(generation: Generation, host: Host) -> list[str]:
    notify = [one.id for one in generation.triggers if type(one.trigger).name == "notify"]
    by_status = [one for one, rules in _rules(generation).items() if any(rule.statuses for rule in rules)]
    return [*by_status, *(notify if notify and reports_failures(host) else ())]


def _logs(generation: Generation, event: str) -> list[str]:
    logs = {one.id: one.trigger.events for one in generation.triggers if isinstance(one.trigger, KernelLog)}
    return [trigger for trigger, events in logs.items() if event in events]


def _rules(generation: Generation) -> dict[str, tuple[ExitRule, ...]]:
    return {one.id: one.trigger.rules for one in generation.triggers if isinstance(one.trigger, ProcessExits)}


def _exits(generation: Generation, numbers: frozenset[int]) -> list[str]:
    """
    Return the triggers that notice a death by any of *numbers*: those whose rules are for every process.

    If there is none, those that do for the processes that somebody has chosen.
    """
    found: dict[str, bool] = {}
    for trigger, rules in _rules(generation).items():
        everybody = frozenset[int]().union(*(rule.numbers for rule in rules if not _is_choosy(rule)))
        anybody = frozenset[int]().union(*(rule.numbers for rule in rules))
        if anybody >= numbers:
            found[trigger] = everybody >= numbers
    return [trigger for trigger, whole in found.items() if whole] or list(found)


def _chosen(generation: Generation) -> list[str]:
    """Return the triggers of which every rule is for some processes only."""
    return [trigger for trigger, rules in _rules(generation).items() if all(map(_is_choosy, rules))]


def _is_choosy(rule: ExitRule) -> bool:
    return bool(rule.comm or rule.exe or rule.unit)


def _lacking(generation: Generation) -> list[str]:
    """Return the signals that dump core and are in no rule, if there are rules."""
    rules = [rule for some in _rules(generation).values() for rule in some]
    numbers = CORE_SIGNALS.difference(*(rule.numbers for rule in rules)) if rules else frozenset[int]()
    return [signal_name(number) for number in sorted(numbers)]


SHIPPED = "as in the shipped file"
KINDS = (
    Kind("dumps", "a crash that leaves a core", f"a core_files or process_exits trigger, {SHIPPED}", _with_core),
    Kind("crashes", "a crash that leaves no core", f"a process_exits trigger, {SHIPPED}", _without_core),
    Kind("oom kills", "an OOM kill", f"a kernel_log trigger with events: [oom_kill], {SHIPPED}", _oom_kill),
    Kind("oopses", "a kernel oops", f"a kernel_log trigger with events: [oops], {SHIPPED}", _oops),
    Kind(
        "failures",
        "a service that exits with a failure",
        "a notify trigger and /opt/collector/examples/notify-on-crash.conf, or statuses to a rule of process_exits",
        _failure,
        strict=False,  # whether a status is a crash, only who runs the service can say
    ),
)
