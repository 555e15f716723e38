"""Which crashes would be noticed, and which services leave no core."""

from __future__ import annotations

import os
from collections.abc import Iterator

from collector.cli.check import Check
from collector.cli.doctor_core_pattern import is_collectors
from collector.cli.doctor_cores import SYSTEMD
from collector.cli.doctor_kinds import is_noticed_without_core, kinds
from collector.daemon.messages import Status
from collector.host.core_limits import services_without_cores
from collector.host.core_pattern_owner import handler_of, pattern_in_force
from collector.host.files import Host
from collector.model.own_processes import UNIT
from collector.pipeline.generation import Generation

MAX_NAMES = 10
RAISE = "LimitCORE=infinity (`systemctl edit NAME`), or for all DefaultLimitCORE=infinity in system.conf; then restart"


def crashes(generation: Generation, host: Host | None = None, *, status: Status | None = None) -> Iterator[Check]:
    """Yield who would notice each kind of crash, and which services leave no core; *status* as `kinds` has it."""
    host = host or Host()
    yield from kinds(generation, host, status=status)
    yield _core_limits(generation, host, noticed=is_noticed_without_core(generation, status))


def _core_limits(generation: Generation, host: Host, *, noticed: bool) -> Check:
    """Return which services leave no core; the collector's own is meant to leave none."""
    services = [name for name in services_without_cores(host) if name != UNIT]
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
