"""``collector status``: what the daemon is doing."""

from __future__ import annotations

import click
import msgspec

from collector.cli.options import config_option, json_option
from collector.cli.text import escape_name, printable_lines, size, when
from collector.cli.watch import watch
from collector.config.load import find
from collector.daemon.messages import Recent, Running, Status
from collector.daemon.requests import runtime_directory, status_of
from collector.model.errors import UsageError


@click.command("status")
@config_option
@json_option
@click.option("--watch", "watching", is_flag=True, help="Show the last minute instead, refreshed each second.")
def status_command(*, config: str | None, as_json: bool, watching: bool) -> int:
    """
    Show what the daemon is doing.

    The queue, running steps, memory as the gate sees it, and the latest incidents.
    """
    directory = runtime_directory(find(config))
    if watching:
        if as_json:
            raise UsageError("--watch and --json exclude each other", hint="`status --json` has the newest row")
        watch(directory)
    status = status_of(directory)
    click.echo(msgspec.json.encode(status) if as_json else "\n".join(_lines(status)))
    return 0


def _lines(status: Status) -> list[str]:
    sample = status.sample
    lines = [
        f"collector {status.version}, pid {status.pid}, since {when(status.since_s)}",
        f"config    {escape_name(status.config_source)} ({status.config_hash[:12]})",
        f"archive   {escape_name(status.archive)}",
        f"memory    {size(status.available_bytes)} available, {size(sample.room_bytes)} before reclaim,"
        f" {size(sample.shmem_bytes)} in shared memory; {sample.distress}"
        + (f": {sample.distress_reason}" if sample.distress_reason else ""),
        f"workers   {status.workers_idle} idle, {len(status.workers_abandoned)} abandoned",
        f"queue     {status.queued}",
    ]
    if status.drained_s is not None:
        lines.append(f"DRAINED   since {when(status.drained_s)}: nothing begins; `collector drain --off` ends that")
    if status.crashed_held:
        lines.append(f"crashed   {status.crashed_held} held until their evidence is read")
    if status.config_problem:
        lines.append(f"RELOAD FAILED, the old configuration stays in force:\n{printable_lines(status.config_problem)}")
    if status.after_restart:
        lines.append(f"after a restart: {', '.join(status.after_restart)}")
    if status.ledger_problem:
        lines.append(f"LEDGER    {escape_name(status.ledger_problem)}")
    for running in status.running:
        state = f"waits: {running.waiting_for}" if running.waiting_for else size(running.size_bytes)
        state += f", {running.seconds:.1f} s{_beyond(running)}"
        lines.append(f"running   {running.incident}: {running.step or 'opening'} {state}")
    lines += [f"trigger   {trigger}: {escape_name(state)}" for trigger, state in status.triggers.items()]
    if any(status.handovers.values()):
        counts = ", ".join(f"{count} {state}" for state, count in status.handovers.items())
        lines.append(f"handover  {counts}")
    lines += [f"lost      {trigger}: {count}" for trigger, count in status.lost.items()]
    lines += [f"markers   {count} {fate}" for fate, count in status.fates.items()]
    lines += [
        f"limit     {limit}: {escape_name(owner)} {count}"
        for limit, by_owner in status.limits.items()
        for owner, count in by_owner.items()
    ]
    lines += [
        f"incident  {recent.incident} {recent.state} {size(recent.size_bytes)}{_beyond(recent)}"
        for recent in reversed(status.recent)
    ]
    return lines


def _beyond(incident: Running | Recent) -> str:
    return f" over budget: {escape_name(incident.over_budget)}" if incident.over_budget else ""
