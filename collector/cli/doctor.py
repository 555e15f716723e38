"""``collector doctor``: what of this machine stands in the way, and what to do about it."""

from __future__ import annotations

import errno
import fnmatch
import os
import resource
from collections.abc import Callable, Iterator
from typing import Literal

import click
import msgspec

from collector.cli.leftovers import unfinished
from collector.cli.options import config_option, json_option
from collector.cli.text import escape_name, size
from collector.config.load import find
from collector.daemon.requests import AS_ROOT, status_of
from collector.host import filesystem, syscalls
from collector.host.files import Host
from collector.model.errors import CollectorError, DeniedError
from collector.model.pressure import Decision, Sample
from collector.pipeline.generation import Generation, generate
from collector.pipeline.steps import Pipeline
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler
from collector.triggers.registry import TRIGGERS

MEMLOCK_BYTES = 64 << 20
"""What the daemon locks when idle: 41 MiB resident, and room."""


SYSTEMD_CORES = "/var/lib/systemd/coredump"
CORE_NAME = "core.%e.%P.%s.%u.%t"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the machine."""

    level: Literal["ok", "warning", "bad"]
    about: str
    said: str
    hint: str | None = None


@click.command("doctor")
@config_option
@json_option
def doctor_command(*, config: str | None, as_json: bool) -> int:
    """Look at everything that the collector rests on: privileges, kernel, memory, archive, core_pattern, daemon."""
    generation = generate(find(config), TRIGGERS)
    findings = [finding for check in CHECKS for finding in _looked(check, generation)]
    if as_json:
        click.echo(msgspec.json.encode(findings))
    for finding in () if as_json else findings:
        click.echo(f"{finding.level:<8} {finding.about:<12} {escape_name(finding.said)}")
        if finding.hint:
            click.echo(f"{'':<8} {'':<12} hint: {finding.hint}")
    return 73 if any(finding.level == "bad" for finding in findings) else 0


def _privileges(_: Generation) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding(level="ok", about="privileges", said="runs as root")
    else:
        said = "without root: other users' processes, the kernel log and most cores cannot be read"
        yield Finding(level="warning", about="privileges", said=said, hint="run it as root for the full picture")
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() != 0 and 0 <= soft < MEMLOCK_BYTES:
        said = f"RLIMIT_MEMLOCK is {size(soft)}: nothing is locked, the collector itself may be paged out"
        yield Finding(level="warning", about="memlock", said=said, hint="LimitMEMLOCK=infinity, or root")


def _kernel(_: Generation) -> Iterator[Finding]:
    with open("/proc/self/exe", "rb") as file:
        if syscalls.direct_alignment(file.fileno()) is None:
            said = "statx(2) tells no direct I/O alignment here: 4096 is assumed"
            yield Finding(level="warning", about="kernel", said=said, hint="Linux 6.1 has it for ext4 and xfs")
    with open("/proc/swaps", encoding="ascii") as swaps:
        if len(swaps.readlines()) > 1:
            yield Finding(level="ok", about="swap", said="there is swap; the gate does not count on it")


def _pressure(generation: Generation) -> Iterator[Finding]:
    sampler = Sampler()
    sample = sampler.settled_sample()
    if not sampler.has_psi:
        said = "no PSI: memory stalls are seen by reclaim counters only"
        yield Finding(level="warning", about="pressure", said=said, hint="boot with psi=1")
    said = f"{size(sample.available_bytes)} available, {size(sample.room_bytes)} before reclaim, {sample.distress}"
    yield Finding(level="ok", about="memory", said=f"{said} {sample.distress_reason}".strip())
    for name, pipeline in generation.pipelines.items():
        yield _collected_now(name, pipeline, sample)


def _collected_now(name: str, pipeline: Pipeline, sample: Sample) -> Finding:
    """Say which steps of a pipeline the gate would let through at this moment."""
    verdicts = {step.id: decide(sample, budget=step.budget, limits=step.limits) for step in pipeline.steps}
    held = [step for step, verdict in verdicts.items() if verdict.decision is not Decision.PROCEED]
    said = f"{name} would collect now: {', '.join(step for step in verdicts if step not in held) or 'nothing'}"
    if not held:
        return Finding(level="ok", about="gate", said=said)
    reasons = "; ".join(f"{step}: {verdicts[step].decision}, {verdicts[step].reason}" for step in held)
    hint = "docs/operations.md, The gate is closed"
    return Finding(level="warning", about="gate", said=f"{said}; held back: {reasons}", hint=hint)


def _archive(generation: Generation) -> Iterator[Finding]:
    path = generation.settings.archive
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        level: Literal["warning", "bad"] = "warning" if exc.errno == errno.ENOENT else "bad"
        denied = isinstance(exc, PermissionError) and os.geteuid() != 0
        hint = "it is made by the first incident" if level == "warning" else AS_ROOT if denied else None
        yield Finding(level=level, about="archive", said=f"{path}: {exc.strerror}", hint=hint)
        return
    try:
        space = os.fstatvfs(fd)
        free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        reserve = generation.settings.reserve.bytes_of(total)
        kind = filesystem.kind(fd)
        if filesystem.is_memory(fd):
            yield Finding(
                level="bad", about="archive", said=f"{path} is on {kind}", hint="archive.path must be on a disk"
            )
        elif free < reserve:
            said = f"{path}: {size(free)} free, below the reserve of {size(reserve)}"
            yield Finding(
                level="bad",
                about="archive",
                said=said,
                hint="free some space: old incidents go first, then nothing is archived",
            )
        else:
            yield Finding(level="ok", about="archive", said=f"{path} on {kind}, {size(free)} free")
    finally:
        os.close(fd)


def _left(generation: Generation) -> Iterator[Finding]:
    try:
        left = unfinished(generation.settings.archive)
    except DeniedError:
        return  # told of the archive already
    if left:
        said = f"unfinished, of a run that was killed: {', '.join(left)}"
        hint = "sealed by the next start of the daemon, or the next `collector run --now` without one"
        yield Finding(level="warning", about="incidents", said=said, hint=hint)


def _cores(generation: Generation) -> Iterator[Finding]:
    pattern = Host().read("/proc/sys/kernel/core_pattern", limit=4096).decode(errors="replace").strip()
    watched = [
        directory.rstrip("/") or "/"
        for trigger in generation.triggers
        if trigger.trigger.name == "core_files"
        for directory in trigger.trigger.paths
    ]
    watching = f"the daemon watches {', '.join(watched) or 'nothing'}"
    directory = os.path.dirname(pattern)
    if pattern.startswith("|"):
        program = pattern[1:].split()[0]
        said = f"cores are piped to {program}; {watching}"
        if os.path.basename(program) == "systemd-coredump" and SYSTEMD_CORES in watched:
            yield Finding(level="ok", about="cores", said=said)
        else:
            hint = f"it must leave ELF cores where the daemon watches; else {_advice(watched)}"
            yield Finding(level="warning", about="cores", said=said, hint=hint)
    elif not any(fnmatch.fnmatchcase(directory, path) for path in watched):
        said = f"core_pattern is {pattern}; {watching}"
        yield Finding(level="warning", about="cores", said=said, hint=_advice(watched))
    elif not os.path.isdir(directory):
        said = f"core_pattern is {pattern}, and {directory} does not exist: the kernel writes no core"
        yield Finding(level="warning", about="cores", said=said, hint=f"mkdir -m 1733 {directory}")
    else:
        yield Finding(level="ok", about="cores", said=f"core_pattern is {pattern}")


def _advice(watched: list[str]) -> str:
    """Say how cores come to where the daemon looks."""
    plain = [path for path in watched if not set(path) & set("*?[") and path != SYSTEMD_CORES]
    if not plain:
        return "name a directory for cores in the paths of a core_files trigger"
    make = "" if os.path.isdir(plain[0]) else f"mkdir -m 1733 {plain[0]} && "
    return f"{make}sysctl kernel.core_pattern={plain[0]}/{CORE_NAME}; systemd/examples keep it over a reboot"


def _daemon(generation: Generation) -> Iterator[Finding]:
    try:
        status = status_of(generation.runtime_directory)
    except CollectorError as exc:
        yield Finding(level="warning", about="daemon", said=str(exc), hint=exc.hint)
    else:
        yield Finding(level="ok", about="daemon", said=f"answers in {generation.runtime_directory}")
        for trigger, state in status.triggers.items():
            level: Literal["ok", "warning"] = "ok" if state == "watching" else "warning"
            yield Finding(level=level, about="trigger", said=f"{trigger}: {state}")
        if status.config_problem:
            said = "a reload was refused; the old configuration is in force"
            yield Finding(level="warning", about="daemon", said=said, hint="`collector config check` says why")
        if status.ledger_problem:
            yield Finding(level="warning", about="ledger", said=status.ledger_problem)


def _looked(check: Callable[[Generation], Iterator[Finding]], generation: Generation) -> Iterator[Finding]:
    """Look; what cannot be looked at is a finding, and hides none of the others."""
    try:
        yield from check(generation)
    except (OSError, CollectorError) as exc:
        yield Finding(level="warning", about=check.__name__.strip("_"), said=str(exc), hint=AS_ROOT)


CHECKS: tuple[Callable[[Generation], Iterator[Finding]], ...] = (
    _privileges,
    _kernel,
    _pressure,
    _archive,
    _left,
    _cores,
    _daemon,
)
