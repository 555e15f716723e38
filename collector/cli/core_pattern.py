"""``collector core-pattern``: who takes the kernel's cores, and where they went before the collector took them."""

from __future__ import annotations

import os
import time

import click
import msgspec

from collector.cli.options import config_option, json_option
from collector.cli.systemctl import ask_systemd, unit_properties
from collector.cli.text import escape_name
from collector.config.load import find
from collector.daemon.requests import runtime_directory
from collector.host.core_pattern_owner import handler_of, leads_into, owner_of, pattern_in_force, pipe_limit
from collector.host.core_pattern_setting import fulfil
from collector.host.files import Host
from collector.host.saved_core_pattern import put_back, saved_core_pattern
from collector.model.errors import CollectorError, UsageError

STARTING_JOBS = frozenset({"start", "restart", "try-restart", "reload-or-start"})
STARTED = frozenset({"active", "activating", "reloading"})
PENDING = "auto-restart"
PENDING_S = 10.0
"""Less than ``TimeoutStopSec=`` of collector-core-pattern-restore.service, more than ``RestartSec=`` of the service."""

ASK_AGAIN_S = 0.2


class CorePatternError(CollectorError):
    """What the daemon asks for cannot be set."""

    exit_code = 73


class CorePatternState(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force, and what the collector replaced; *owner* is ``None`` if the kernel writes files."""

    pattern: str
    pipe_limit: int
    owner: str | None
    is_collectors: bool
    before: str | None
    put_back: bool


@click.command("core-pattern")
@click.option("--as-asked", is_flag=True, help="Do what the daemon asks for, but may not do itself.")
@click.option("--put-back", "restore", is_flag=True, help="Restore what the collector replaced, if still in force.")
@click.option("--unless-started", metavar="UNIT", help="Change nothing if systemd runs or starts that unit.")
@config_option
@json_option
def core_pattern_command(
    *, as_asked: bool, restore: bool, unless_started: str | None, config: str | None, as_json: bool
) -> int:
    """
    Show who takes the kernel's cores, and who did before.

    --as-asked sets it for the daemon, whose sandbox does not allow that: collector-core-pattern.service. --put-back
    restores what was there: collector-core-pattern-restore.service, when the service stops for good.
    """
    if as_asked and restore:
        raise UsageError("--as-asked and --put-back exclude each other")
    if unless_started and not restore:
        raise UsageError("--unless-started says when not to put anything back", hint="add --put-back")
    host = Host()
    directory = runtime_directory(find(config))
    if as_asked and (problem := fulfil(host, directory)):
        raise CorePatternError(problem)
    changed = restore and not (unless_started and _is_started(unless_started)) and put_back(host, directory)
    state = _state(host, directory, changed=changed)
    click.echo(msgspec.json.encode(state) if as_json else "\n".join(map(escape_name, _lines(state))))
    return 0


def _state(host: Host, directory: str, *, changed: bool) -> CorePatternState:
    pattern, saved = pattern_in_force(host), saved_core_pattern(host, directory)
    is_collectors = leads_into(pattern, directory)
    owner = "the collector" if is_collectors else owner_of(pattern) if handler_of(pattern) is not None else None
    return CorePatternState(
        pattern=escape_name(pattern),
        pipe_limit=pipe_limit(host),
        owner=owner and escape_name(owner),
        is_collectors=is_collectors,
        before=None if saved is None else escape_name(os.fsdecode(saved.pattern)),
        put_back=changed,
    )


def _lines(state: CorePatternState) -> list[str]:
    lines = [f"core_pattern     {state.pattern or '(empty)'}{', put back' if state.put_back else ''}"]
    lines += [
        f"core_pipe_limit  {state.pipe_limit}",
        f"owner            {state.owner or 'the kernel, which writes files'}",
    ]
    return lines if state.before is None else [*lines, f"before           {state.before or '(empty)'}"]


def _is_started(unit: str) -> bool:
    """
    Ask systemd whether it runs *unit* or is about to start it, which it does also after a failure.

    While that is to come (``RestartSec=``), it may still be stopped for good, and nobody would be asked again: so wait
    for what comes. If there is no answer, it is not: better a crash that goes elsewhere than one that goes nowhere.
    """
    end_s = time.monotonic() + PENDING_S
    while True:
        jobs = [line.split() for line in ask_systemd("list-jobs", "--plain", "--no-legend").splitlines()]
        job = next((fields[2] for fields in jobs if len(fields) > 2 and fields[1] == unit), None)
        if job is not None:
            return job in STARTING_JOBS
        state = unit_properties(unit, "ActiveState", "SubState")
        if state.get("SubState") != PENDING or time.monotonic() >= end_s:
            return state.get("ActiveState") in STARTED
        time.sleep(ASK_AGAIN_S)
