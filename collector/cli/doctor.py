"""``collector doctor``: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

import functools
import os
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Literal

import click
import msgspec

from collector.cli.check import Check
from collector.cli.doctor_core_pattern import kernel_cores
from collector.cli.doctor_cores import cores
from collector.cli.doctor_crashes import crashes
from collector.cli.leftovers import unfinished
from collector.cli.options import config_option, json_option
from collector.cli.text import escape_name, size
from collector.config.load import find
from collector.daemon.requests import AS_ROOT, status_of
from collector.host import syscalls
from collector.model.errors import CollectorError, DeniedError
from collector.model.pressure import Decision, Sample
from collector.pipeline.generation import Generation, generate
from collector.pipeline.machine_facts import survey
from collector.pipeline.steps import Pipeline
from collector.pipeline.warnings import archive_warnings, warnings_of
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler
from collector.triggers.registry import TRIGGERS

MEMLOCK_BYTES = 64 << 20
"""What the idle daemon locks: 41 MiB resident, and some room."""


@click.command("doctor")
@config_option
@json_option
def doctor_command(*, config: str | None, as_json: bool) -> int:
    """
    Check what the collector depends on.

    Privileges, kernel, memory, configuration, cores, daemon.
    """
    checks: list[Check] = []
    for check in _checks(config):
        checks.append(check)
        if not as_json:
            _show(check)
    if as_json:
        click.echo(msgspec.json.encode(checks))
    return 73 if any(check.level == "bad" for check in checks) else 0


def _checks(config: str | None) -> Iterator[Check]:
    """Yield what can be said before the configuration is read, then the rest."""
    for probe in MACHINE:
        yield from _guarded(probe)
    generation = generate(find(config), TRIGGERS)
    for of_configuration in PROBES:
        yield from _guarded(functools.partial(of_configuration, generation), of_configuration.__name__)


def _show(check: Check) -> None:
    click.echo(f"{check.level:<8} {check.about:<12} {escape_name(check.said)}")
    if check.hint:
        click.echo(f"{'':<8} {'':<12} hint: {check.hint}")
    sys.stdout.flush()  # the last probe looks at the machine for two seconds


def _privileges() -> Iterator[Check]:
    if os.geteuid() == 0:
        yield Check("ok", "privileges", "runs as root")
    else:
        said = "without root: other users' processes, the kernel log and most cores cannot be read"
        yield Check("warning", "privileges", said, "run it as root for the full picture")
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() != 0 and 0 <= soft < MEMLOCK_BYTES:
        said = f"RLIMIT_MEMLOCK is {size(soft)}: nothing is locked, the collector itself may be paged out"
        yield Check("warning", "memlock", said, "LimitMEMLOCK=infinity, or root")


def _kernel() -> Iterator[Check]:
    with open("/proc/self/exe", "rb") as file:
        if syscalls.direct_alignment(file.fileno()) is None:
            said = "statx(2) reports no direct I/O alignment here: 4096 is assumed"
            yield Check("warning", "kernel", said, "Linux 6.1 reports it for ext4 and xfs")
    with open("/proc/swaps", encoding="ascii") as swaps:
        if len(swaps.readlines()) > 1:
            yield Check("ok", "swap", "there is swap; the gate does not rely on it")


def _pressure(generation: Generation) -> Iterator[Check]:
    sampler = Sampler()
    sample = sampler.settled_sample()
    if not sampler.has_psi:
        said = "no PSI: memory stalls show in reclaim counters only"
        yield Check("warning", "pressure", said, "boot with psi=1")
    said = f"{size(sample.available_bytes)} available, {size(sample.room_bytes)} before reclaim, {sample.distress}"
    yield Check("ok", "memory", f"{said} {sample.distress_reason}".strip())
    for pipeline in generation.pipelines.values():
        yield _collected_now(pipeline, sample)


def _collected_now(pipeline: Pipeline, sample: Sample) -> Check:
    """Return which steps of a pipeline the gate would allow at this moment."""
    verdicts = {step.id: decide(sample, budget=step.budget, limits=step.limits) for step in pipeline.steps}
    held = [step for step, verdict in verdicts.items() if verdict.decision is not Decision.PROCEED]
    said = f"{pipeline.name} would collect now: {', '.join(step for step in verdicts if step not in held) or 'nothing'}"
    if not held:
        return Check("ok", "gate", said)
    reasons = "; ".join(f"{step}: {verdicts[step].decision}, {verdicts[step].reason}" for step in held)
    return Check("warning", "gate", f"{said}; held back: {reasons}", "docs/operations.md, The gate is closed")


def _configuration(generation: Generation) -> Iterator[Check]:
    """Yield what `collector config check` warns of; what keeps incidents from being archived is bad."""
    facts = survey(generation, is_root=os.geteuid() == 0, environ=os.environ)
    fatal = set(archive_warnings(generation, facts))
    for warning in warnings_of(generation, facts):
        level: Literal["warning", "bad"] = "bad" if warning in fatal else "warning"
        about = "archive" if warning in fatal else "config"
        yield Check(level, about, f"{warning.mark}: {warning.message}", warning.hint)
    archive = facts.archive
    if archive.parent != archive.path and not archive.problem:
        yield Check("warning", "archive", f"{archive.path} does not exist yet", "the first incident creates it")
    elif not fatal:
        yield Check("ok", "archive", f"{archive.path} on {archive.kind}, {size(archive.free_bytes)} free")


def _incidents(generation: Generation) -> Iterator[Check]:
    try:
        left = unfinished(generation.settings.archive)
    except DeniedError:
        return  # `_configuration` reports it
    if left:
        said = f"unfinished, of a run that was killed: {', '.join(left)}"
        hint = "sealed by the next start of the daemon, or the next `collector run --now` without one"
        yield Check("warning", "incidents", said, hint)


def _daemon(generation: Generation) -> Iterator[Check]:
    try:
        status = status_of(generation.runtime_directory)
    except CollectorError as exc:
        yield Check("warning", "daemon", str(exc), exc.hint)
    else:
        yield Check("ok", "daemon", f"answers in {generation.runtime_directory}")
        for trigger, state in status.triggers.items():
            level: Literal["ok", "warning"] = "ok" if state == "watching" else "warning"
            yield Check(level, "trigger", f"{trigger}: {state}")
        if status.config_problem:
            said = "a reload was refused; the old configuration is in force"
            yield Check("warning", "daemon", said, "`collector config check` says why")
        if status.ledger_problem:
            yield Check("warning", "ledger", status.ledger_problem)


def _guarded(probe: Callable[[], Iterator[Check]], name: str = "") -> Iterator[Check]:
    """Yield the checks of *probe*; if it fails, report that, so that the others still run."""
    try:
        yield from probe()
    except (OSError, CollectorError) as exc:
        yield Check("warning", (name or probe.__name__).strip("_"), str(exc), AS_ROOT)


MACHINE: tuple[Callable[[], Iterator[Check]], ...] = (_privileges, _kernel)
PROBES: tuple[Callable[[Generation], Iterator[Check]], ...] = (
    _configuration,
    _incidents,
    cores,
    kernel_cores,
    crashes,
    _daemon,
    _pressure,
)
