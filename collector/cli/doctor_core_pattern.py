"""Who takes the kernel's cores, and what a `kernel_cores` trigger does, or would do, about that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from collector.cli.check import Check
from collector.cli.doctor_machine import INITIAL_PID_NAMESPACE
from collector.daemon.messages import Status
from collector.host.core_pattern_owner import (
    has_coredump_socket,
    is_taken,
    leads_into,
    owner_of,
    pattern_in_force,
    pipe_limit,
)
from collector.host.files import Host
from collector.pipeline.generation import Generation

ABOUT = "core_pattern"
KERNEL_CORES = "kernel_cores"


def is_collectors(generation: Generation, pattern: str) -> bool:
    """Return whether the kernel hands crashes to this collector."""
    return leads_into(pattern, generation.runtime_directory)


def kernel_cores(
    generation: Generation, host: Host | None = None, *, status: Status | None = None, release: str | None = None
) -> Iterator[Check]:
    """
    Yield what the kernel does with a crash now, and what would change by the trigger.

    *status* is that of the daemon, if one answers; *release* as ``uname -r`` has it.
    """
    host, release = host or Host(), release or os.uname().release
    pattern = pattern_in_force(host)
    by = {one.id: one.trigger for one in generation.triggers if type(one.trigger).name == KERNEL_CORES}
    if is_collectors(generation, pattern):
        yield _ours(pattern, list(by), host, status)
    elif by:
        for name, trigger in by.items():
            yield _not_ours(name, trigger, pattern, release)
    else:
        said = f"core_pattern is {pattern or 'empty'}; {_change(pattern, release, takeover=False)}"
        yield Check("ok", ABOUT, f"{said}, if it were switched on")
    if by and os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE:
        said = f"in a container: the kernel looks for {generation.runtime_directory} in the host's file tree"
        yield Check("warning", ABOUT, said, "docs/operations.md, Crashes that the kernel hands over")


def _ours(pattern: str, by: list[str], host: Host, status: Status | None) -> Check:
    """Return whether somebody is behind the collector's own pattern."""
    said = f"the kernel hands crashes to the collector ({pattern})"
    mend = "start the daemon, or `collector core-pattern --put-back`"
    if status is None:
        return Check("warning", ABOUT, f"{said}, which does not run: all cores are lost, or wait for it", mend)
    states = status.triggers
    watching = [name for name in by if name in states]
    if not watching:
        return Check("warning", ABOUT, f"{said}, which has no {KERNEL_CORES} trigger: all cores are lost", mend)
    if pattern.startswith("|") and pipe_limit(host) == 0:
        said = f"{said}, and core_pipe_limit is 0: it does not hold the processes meanwhile"
        return Check("warning", ABOUT, said, "let the trigger set it (register), or sysctl kernel.core_pipe_limit=16")
    return Check("ok", ABOUT, f"{said}: {', '.join(watching)}")


def _not_ours(name: str, trigger: Any, pattern: str, release: str) -> Check:
    """Return why the trigger gets no crash, or what it changes once the daemon runs with it."""
    said = f"core_pattern is {pattern or 'empty'}"
    if not trigger.register:
        said = f"{said}, and {name} is not to set it (register: false): it gets no crash"
        return Check("warning", ABOUT, said, "set it as `status` says of the trigger, or write register: true")
    takeover = trigger.register == "takeover"
    if is_taken(pattern) and not takeover:
        hint = "register: takeover would replace it, until the service stops"
        return Check("warning", ABOUT, f"cores belong to {owner_of(pattern)}: {name} gets no crash", hint)
    said = f"{said}; {_change(pattern, release, takeover=takeover, mode=trigger.mode)}"
    return Check("warning", ABOUT, f"{said}, but has not", "start or reload the daemon; `status` says why it cannot")


def _change(pattern: str, release: str, *, takeover: bool, mode: str = "auto") -> str:
    if is_taken(pattern) and not takeover:
        return f"{KERNEL_CORES} would leave it to {owner_of(pattern)}"
    socket = mode == "socket" or (mode == "auto" and has_coredump_socket(release))
    by = "the coredump socket" if socket else "a program and its pipe, and set core_pipe_limit"
    return f"{KERNEL_CORES} would replace it by {by} (Linux {release.partition('-')[0]})"
