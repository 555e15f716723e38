"""``collector config explain``: what would happen if it crashed now."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import click
import msgspec

from collector.cli.options import archive_option, config_option, json_option
from collector.cli.text import escape_name, size
from collector.config.directories import effective_archive_path
from collector.config.load import find
from collector.host.files import Host
from collector.model.errors import UsageError
from collector.model.marker import Marker, MarkerKind
from collector.model.pressure import Speed, StepClass
from collector.model.units import format_seconds
from collector.pipeline.compile import MANUAL_PIPELINE, Plan, prepare
from collector.pipeline.conditions import MANUAL, signal_number
from collector.pipeline.machine_facts import place
from collector.pipeline.preview import Finding, Forecast, StepForecast, findings, forecast
from collector.pressure.sampler import Sampler
from collector.triggers.base import Trigger
from collector.triggers.manual import find_processes
from collector.triggers.registry import TRIGGERS

SHOWN_FILES = 20


@click.command("explain")
@click.argument("trigger", required=False)
@click.option("--comm", metavar="NAME", help="The command name of what crashed.")
@click.option("--exe", metavar="PATH", help="The executable of what crashed.")
@click.option("--signal", "signal_", metavar="SIGNAL", help="The signal that killed it, such as SIGSEGV.")
@click.option("--unit", metavar="UNIT", help="The systemd unit that it ran in.")
@click.option("--pid", metavar="PID", type=int, help="A live process: as if this one crashed.")
@archive_option
@config_option
@json_option
def explain_command(
    *,
    trigger: str | None,
    comm: str | None,
    exe: str | None,
    signal_: str | None,
    unit: str | None,
    pid: int | None,
    archive: str | None,
    config: str | None,
    as_json: bool,
) -> int:
    """
    Say what would be collected if it crashed now, and what that would cost.

    TRIGGER is the id of a trigger; without it, `collector run --now` is explained. A crash described
    by --comm or --exe is taken to have the segments that processes of that name have now.
    """
    plan = prepare(find(config), TRIGGERS)
    marker = Marker(
        kind=MarkerKind.MANUAL if trigger is None else MarkerKind.EXIT,
        trigger=trigger or MANUAL,
        at_s=time.time(),
        process=find_processes([pid])[0] if pid is not None else None,
        comm=comm,
        exe=exe,
        signal=_signal(signal_),
        unit=unit,
    )
    name = _pipeline_of(plan, trigger)
    path = archive or effective_archive_path(plan.loaded.config, is_root=os.geteuid() == 0, environ=os.environ)
    answer = _forecast(plan, name, marker, path)
    click.echo(msgspec.json.format(msgspec.json.encode(answer)) if as_json else "\n".join(_lines(answer, path)))
    return 0


def _pipeline_of(plan: Plan[Trigger], trigger: str | None) -> str:
    if trigger is None:
        if MANUAL_PIPELINE in plan.pipelines:
            return MANUAL_PIPELINE
        raise UsageError(f"there is no pipeline {MANUAL_PIPELINE!r} for `run --now`", hint="name a trigger")
    for known in plan.triggers:
        if known.id == trigger:
            return known.pipeline
    ids = ", ".join(known.id for known in plan.triggers) or "none"
    raise UsageError(f"there is no trigger {trigger!r}", hint=f"those that are on: {ids}")


def _signal(text: str | None) -> int | None:
    try:
        return None if text is None else signal_number(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _forecast(plan: Plan[Trigger], name: str, marker: Marker, path: str) -> Forecast:
    """Ask the gate, with two samples of this machine and its disk."""
    where, sampler = place(os.path.abspath(path)), Sampler()
    fd = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        now = sampler.settled_sample(fd)
    finally:
        os.close(fd)
    pipeline = plan.pipelines[name]
    return forecast(
        pipeline,
        marker,
        now,
        reserve_bytes=plan.loaded.config.archive.reserve.bytes_of(where.total_bytes),
        findings=findings(pipeline, marker, Host()),
    )


def _lines(answer: Forecast, path: str) -> Iterator[str]:
    yield f"{answer.trigger} runs pipeline {answer.pipeline}, archived in {escape_name(path)}"
    for step in answer.steps:
        yield from _step(step)
    free = "unknown" if answer.disk_free_bytes is None else size(answer.disk_free_bytes)
    yield f"disk: {size(answer.disk_bytes)} of bulk; {free} free, {size(answer.reserve_bytes)} of it reserved"
    if not answer.fits:
        yield "      it does not fit: bulk steps are skipped or cut short"


def _step(step: StepForecast) -> Iterator[str]:
    if step.condition is not None:
        yield f"  {step.id:<16} {step.collector:<14} not for this crash: {escape_name(step.condition)}"
        return
    verdict = step.verdict
    limits = f"up to {format_seconds(step.timeout_s)}, {size(verdict.budget_bytes)} of memory"
    told = f"{verdict.decision.upper()} now" + ("" if verdict.speed is Speed.FULL else f", at {verdict.speed} speed")
    yield f"  {step.id:<16} {step.collector:<14} {_class(step)}: {told}; {limits}"
    if step.when:
        yield f"{'':34}because {escape_name(step.when)}"
    if verdict.reason:
        yield f"{'':34}{verdict.reason}"
    if step.finding is not None:
        yield from _finding(step.finding)


def _class(step: StepForecast) -> str:
    step_class = step.verdict.step_class
    return f"{step_class}, read first" if step.reads_first and step_class is not StepClass.LIGHT else str(step_class)


def _finding(finding: Finding) -> Iterator[str]:
    indent = " " * 34
    for match in finding.matches[:SHOWN_FILES]:
        sparse = f" of {size(match.size_bytes)}" if match.size_bytes > match.data_bytes else ""
        why = f"not taken: {match.not_taken}" if match.not_taken else match.why
        yield f"{indent}{size(match.bytes_to_copy):>10}{sparse}  {match.name}{f' ({why})' if why else ''}"
    if len(finding.matches) > SHOWN_FILES:
        yield f"{indent}and {len(finding.matches) - SHOWN_FILES} more"
    if finding.disk_bytes is not None:
        yield f"{indent}{size(finding.disk_bytes):>10}  in all"
    if finding.unknown:
        yield f"{indent}and, known only when it happens: {finding.unknown}"
