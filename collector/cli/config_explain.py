"""``collector config explain`` and ``run --dry-run``: what a crash would collect now, and its cost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import click
import msgspec

from collector.cli.completion import complete_triggers
from collector.cli.options import archive_option, config_option, json_option, parsed
from collector.cli.text import escape_name, size
from collector.config.load import find
from collector.host.files import Host, OpenFd
from collector.model.conditions import MANUAL
from collector.model.errors import UsageError
from collector.model.knowledge import NOTHING, Knowledge
from collector.model.marker import Marker, MarkerKind
from collector.model.pressure import Speed, StepClass
from collector.model.signals import signal_number
from collector.model.units import format_seconds
from collector.pipeline import preview
from collector.pipeline.compile import MANUAL_PIPELINE
from collector.pipeline.generation import Generation, generate
from collector.pipeline.machine_facts import place
from collector.pipeline.preview import Forecast, StepFinding, StepForecast
from collector.pipeline.steps import Pipeline
from collector.pressure.sampler import Sampler
from collector.triggers.manual import find_processes
from collector.triggers.registry import TRIGGERS

SHOWN_FILES = 20


@click.command("explain")
@click.argument("trigger", required=False, shell_complete=complete_triggers)
@click.option("--comm", metavar="NAME", help="Command name of the process that crashed.")
@click.option("--exe", metavar="PATH", help="Executable of the process that crashed.")
@click.option("--signal", "signal_", metavar="SIGNAL", help="Signal that killed it, such as SIGSEGV.")
@click.option("--unit", metavar="UNIT", help="Systemd unit that it ran in.")
@click.option("--pid", metavar="PID", type=int, help="As if this live process crashed.")
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
    Show what a crash would collect now, and what that would cost.

    TRIGGER is the id of a trigger; without it, `collector run --now` is explained. A crash described
    by --comm or --exe is assumed to have the segments that processes of that name have now.
    """
    generation = generate(find(config), TRIGGERS, archive=archive)
    marker = Marker(
        kind=MarkerKind.MANUAL if trigger is None else MarkerKind.EXIT,
        trigger=trigger or MANUAL,
        at_s=time.time(),
        process=find_processes([pid])[0] if pid is not None else None,
        comm=comm,
        exe=exe,
        signal=None if signal_ is None else parsed(signal_number, signal_),
        unit=unit,
    )
    pipeline, knows = _of_trigger(generation, trigger)
    return show_forecast(generation, pipeline, marker, knows, as_json=as_json)


def _of_trigger(generation: Generation, trigger: str | None) -> tuple[Pipeline, Knowledge]:
    """Return what a trigger runs, and what it can tell; without one, those of ``run --now``."""
    if trigger is None:
        if MANUAL_PIPELINE in generation.pipelines:
            return generation.pipelines[MANUAL_PIPELINE], NOTHING
        raise UsageError(f"there is no pipeline {MANUAL_PIPELINE!r} for `run --now`", hint="name a trigger")
    for known in generation.triggers:
        if known.id == trigger:
            return generation.pipelines[known.pipeline], known.trigger.knows
    ids = ", ".join(known.id for known in generation.triggers) or "none"
    raise UsageError(f"there is no trigger {trigger!r}", hint=f"those that are on: {ids}")


def show_forecast(
    generation: Generation, pipeline: Pipeline, marker: Marker, knows: Knowledge, *, as_json: bool
) -> int:
    """Ask the gate, after watching this machine for 2 s, and show what *pipeline* would do for *marker*."""
    archive = generation.settings.archive
    where = place(archive)
    with OpenFd(os.open(where.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        sample = Sampler().settled_sample(fd)
    answer = preview.forecast(
        pipeline,
        marker,
        sample,
        knows=knows,
        archive=archive,
        reserve_bytes=generation.settings.reserve.bytes_of(where.total_bytes),
        findings=preview.find(pipeline, marker, Host()),
    )
    click.echo(msgspec.json.encode(answer) if as_json else "\n".join(_lines(answer)))
    return 0


def _lines(answer: Forecast) -> Iterator[str]:
    yield f"{answer.trigger} runs pipeline {answer.pipeline}, archived in {escape_name(answer.archive)}"
    if answer.unseen:
        yield f"  not run: {answer.unseen}"
    for step in answer.steps:
        yield from _step(step)
    free = "unknown" if answer.disk_free_bytes is None else size(answer.disk_free_bytes)
    yield f"disk: {size(answer.disk_bytes)} of bulk; {free} free, {size(answer.reserve_bytes)} of it reserved"
    if not answer.fits:
        yield "      it does not fit: bulk steps are skipped or cut short"


def _step(step: StepForecast) -> Iterator[str]:
    if step.left_out is not None:
        yield f"  {step.id:<16} {step.collector:<14} does not apply: {escape_name(step.left_out)}"
        return
    verdict = step.verdict
    limits = f"up to {format_seconds(step.timeout_s)}, {size(verdict.budget_bytes)} of memory"
    speed = "" if verdict.speed is Speed.FULL else f", at {verdict.speed} speed"
    yield f"  {step.id:<16} {step.collector:<14} {_class(step)}: {verdict.decision.upper()} now{speed}; {limits}"
    if step.when:
        yield f"{'':34}because {escape_name(step.when)}"
    if verdict.reason:
        yield f"{'':34}{verdict.reason}"
    if step.finding is not None:
        yield from _finding(step.finding)


def _class(step: StepForecast) -> str:
    step_class = step.verdict.step_class
    return f"{step_class}, read first" if step.reads_first and step_class is not StepClass.LIGHT else str(step_class)


def _finding(finding: StepFinding) -> Iterator[str]:
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
        yield f"{indent}and, known only after a crash: {finding.unknown}"
