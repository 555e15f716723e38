"""Which crashes no trigger would see: those that leave no core."""

from __future__ import annotations

import os
from collections.abc import Iterator

from collector.cli.check import Check
from collector.cli.doctor_core_pattern import is_collectors
from collector.cli.doctor_cores import SYSTEMD
from collector.daemon.requests import status_of
from collector.host.core_limits import services_without_cores
from collector.host.core_pattern_owner import handler_of, pattern_in_force
from collector.host.files import Host
from collector.model.case import CORE_SIGNALS
from collector.model.errors import CollectorError
from collector.pipeline.generation import Generation
from collector.triggers.kernel_log import KernelLog
from collector.triggers.process_exits import ExitRule, ProcessExits

OWN_SERVICE = "collector.service"
MAX_NAMES = 10
RAISE = "LimitCORE=infinity (`systemctl edit NAME`), or for all DefaultLimitCORE=infinity in system.conf; then restart"


def crashes(generation: Generation, host: Host | None = None) -> Iterator[Check]:
    """Yield who would notice a crash without a core, an OOM kill, and which services leave no core."""
    exits = {one.id: one.trigger.rules for one in generation.triggers if isinstance(one.trigger, ProcessExits)}
    logs = {one.id: one.trigger.events for one in generation.triggers if isinstance(one.trigger, KernelLog)}
    deaf = _degraded(generation)
    whole = [trigger for trigger, rules in exits.items() if any(map(_sees_all, rules))]
    what = "a crash that leaves no core" if whole or not exits else "a crash that leaves no core and matches the rules"
    without_core = _noticed("crashes", what, whole or list(exits), deaf, "process_exits trigger")
    yield without_core
    killing = [trigger for trigger, events in logs.items() if "oom_kill" in events]
    yield _noticed("oom kills", "an OOM kill", killing, deaf, "kernel_log trigger with events: [oom_kill]")
    yield _core_limits(generation, host or Host(), noticed=without_core.level == "ok")


def _sees_all(rule: ExitRule) -> bool:
    return rule.numbers >= CORE_SIGNALS and not (rule.comm or rule.exe or rule.unit)


def _degraded(generation: Generation) -> set[str]:
    """Return the triggers that do not work at the moment, as the daemon says; none if it does not answer."""
    try:
        states = status_of(generation.runtime_directory).triggers
    except CollectorError:
        return set()
    return {trigger for trigger, state in states.items() if state != "watching"}


def _noticed(about: str, what: str, able: list[str], deaf: set[str], missing: str) -> Check:
    """Return which of the triggers that are *able* to notice *what* do so now; *missing* is what to add if none is."""
    working = [trigger for trigger in able if trigger not in deaf]
    if working:
        return Check("ok", about, f"{what} is noticed by {', '.join(working)}")
    if able:
        return Check("warning", about, f"{what} is not noticed: degraded: {', '.join(able)}", "see the trigger, below")
    return Check("warning", about, f"{what} is noticed by no trigger", f"add a {missing}, as in the shipped file")


def _core_limits(generation: Generation, host: Host, *, noticed: bool) -> Check:
    """Return which services leave no core; the collector's own is meant to leave none."""
    services = [name for name in services_without_cores(host) if name != OWN_SERVICE]
    if not services:
        return Check("ok", "core limits", "no running service has a soft core limit of 0")
    some = "1 running service has" if len(services) == 1 else f"{len(services)} running services have"
    more = f" and {len(services) - MAX_NAMES} more" if len(services) > MAX_NAMES else ""
    said = f"{some} a soft core limit of 0: {', '.join(services[:MAX_NAMES])}{more}"
    # The kernel holds only files to the limit; of the programs that take cores, systemd-coredump does so, too.
    pattern = pattern_in_force(host)
    handler = "the collector" if is_collectors(generation, pattern) else handler_of(pattern)
    if handler is not None and os.path.basename(handler) != SYSTEMD:
        return Check("ok", "core limits", f"{said}; {handler} gets their cores all the same")
    become = "their crashes are collected without a core" if noticed else "their crashes are not noticed"
    return Check("warning", "core limits", f"{said}; {become}", RAISE)
