"""Who sets ``core_pattern`` besides what is in force: at the next boot, or when a service starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

from collector.cli.check import Check
from collector.cli.doctor_core_pattern import ABOUT, is_collectors
from collector.host.boot_core_pattern import core_pattern_at_boot
from collector.host.core_pattern_owner import is_taken, owner_of, pattern_in_force, pipe_limit
from collector.host.files import Host
from collector.pipeline.generation import Generation

RIVALS = {
    "Apport": ("/usr/share/apport/apport", "apport"),
    "ABRT": ("/usr/libexec/abrt-hook-ccpp", "abrt-ccpp"),
}
"""Handlers whose service sets core_pattern when it starts: the program, and the service."""

DROP_IN = "/etc/sysctl.d/60-collector.conf"


def lasting(generation: Generation, host: Host | None = None) -> Iterator[Check]:
    """Yield what would change what becomes of cores."""
    host = host or Host()
    pattern = pattern_in_force(host)
    ours = is_collectors(generation, pattern)
    if not ours:
        yield from _at_boot(pattern, host)
    for name, (program, service) in RIVALS.items():
        if os.path.exists(host.path(program)) and not owner_of(pattern).startswith(name):
            said = f"{name} is installed: its service sets core_pattern when it starts, and then takes the cores"
            yield Check("warning", ABOUT, said, f"systemctl disable --now {service}, or remove the package")
    if pattern.startswith("|") and not ours and pipe_limit(host) == 0:
        said = "core_pipe_limit is 0: the kernel does not wait for the program that takes a core, so /proc/PID is gone"
        yield Check("warning", ABOUT, f"{said} while it works", "sysctl kernel.core_pipe_limit=16")


def _at_boot(pattern: str, host: Host) -> Iterator[Check]:
    """Yield whether another pattern is set at the next boot than is in force."""
    found = core_pattern_at_boot(host)
    if found is not None and found[0] != pattern:
        said = f"core_pattern is {pattern or 'empty'}, and becomes {found[0] or 'empty'} at the next boot: {found[1]}"
        yield Check("warning", ABOUT, said, f"one of the two is not meant; files in {os.path.dirname(DROP_IN)} decide")
    elif found is None and pattern.startswith("/") and not is_taken(pattern):
        said = f"core_pattern is {pattern} until the next boot: no file in sysctl.d sets it"
        yield Check("warning", ABOUT, said, f"echo 'kernel.core_pattern = {pattern}' > {DROP_IN}")
