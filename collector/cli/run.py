"""``collector run``: collect now, on demand."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import click

from collector.cli.completion import complete_pipelines, complete_steps
from collector.cli.config_explain import show_forecast
from collector.cli.delegate import by_daemon
from collector.cli.leftovers import check_can_create, seal_left, unfinished
from collector.cli.options import archive_options
from collector.cli.render import Renderer
from collector.cli.signals import on_signal
from collector.config.load import find
from collector.daemon.messages import RunRequest, reply_of
from collector.host.identity import identify
from collector.host.shared_recording import share
from collector.model.case import owner_of
from collector.model.errors import UsageError
from collector.model.knowledge import NOTHING
from collector.model.marker import Marker
from collector.pipeline.generation import Generation, generate
from collector.pipeline.steps import Pipeline, select_steps, steps_for
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import Task, drive
from collector.runner.housekeeping import add_digests, prune
from collector.runner.incident_run import open_header
from collector.runner.pool import Pool
from collector.runner.recorder import Recorder, recorded
from collector.runner.recorder_step import with_recorder
from collector.runner.replies import Done
from collector.runner.runner import Runner
from collector.triggers.manual import find_processes, manual_marker
from collector.triggers.registry import TRIGGERS

STOP_GRACE_S = 5.0
"""How long the running step may continue after Ctrl-C."""


@click.command("run")
@click.option("--now", is_flag=True, help="Collect now; required, so that nothing is collected by mistake.")
@click.option("--pipeline", metavar="NAME", shell_complete=complete_pipelines, help="Pipeline to run [crash].")
@click.option("--reason", metavar="TEXT", default="", help="Why; recorded in the manifest.")
@click.option(
    "--pid", "pids", metavar="PID", type=int, multiple=True, help="A live process to examine; may be repeated."
)
@click.option(
    "--only",
    metavar="STEP",
    multiple=True,
    shell_complete=complete_steps,
    help="Run only this step (id or collector); may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Show what would run and what the gate decides now; write nothing.")
@archive_options
def run_command(
    *,
    now: bool,
    pipeline: str | None,
    reason: str,
    pids: tuple[int, ...],
    only: tuple[str, ...],
    dry_run: bool,
    archive: str | None,
    config: str | None,
    as_json: bool,
) -> int:
    """
    Collect an incident now and wait until it is archived.

    A running daemon does the work, unless --archive or --config names others than its own.
    """
    if not now and not dry_run:
        raise UsageError("nothing was run", hint="use `collector run --now`, or --dry-run to see what it would do")
    request = RunRequest(pipeline=pipeline, reason=reason, processes=find_processes(pids), only=only)
    generation = generate(find(config), TRIGGERS, archive=archive)
    if archive is not None:  # no daemon looks there for what is to be handed over
        generation = replace(generation, settings=replace(generation.settings, hands_over=False))
    if dry_run:
        marker = manual_marker(request.reason, request.processes, uid=os.getuid())
        _chosen(generation, request, marker)
        asked = select_steps(generation.pipeline(request.pipeline), request.only)
        return show_forecast(generation, asked, marker, NOTHING, as_json=as_json)
    with Renderer(as_json=as_json) as renderer:
        named = archive is not None or config is not None
        status = by_daemon(generation, request, renderer, named=named)
        return _run_here(generation, request, renderer) if status is None else status


def _chosen(generation: Generation, request: RunRequest, marker: Marker) -> Pipeline:
    """Return the requested steps whose conditions a manual run meets; without any, raise `UsageError`."""
    asked = select_steps(generation.pipeline(request.pipeline), request.only)
    chosen = steps_for(asked, marker)
    if not chosen.steps:
        names = ", ".join(step.id for step in asked.steps)
        raise UsageError(
            f"nothing to run: the conditions (`when`) of {names} are only met by a crash",
            hint="`collector config explain` shows when each step runs",
        )
    return chosen


def _run_here(generation: Generation, request: RunRequest, renderer: Renderer) -> int:
    check_can_create(generation.settings.archive)
    left = unfinished(generation.settings.archive)
    marker = manual_marker(request.reason, request.processes, uid=os.getuid())
    chosen = with_recorder(_chosen(generation, request, marker), generation)
    recording = share(generation.recorder, by_hand=True)
    pool = Pool(generation.loaded.config.runtime.workers, generation.loaded.config.runtime)
    pool.fill()
    sampler = Sampler()
    recorder = Recorder(recording, sampler, generation.settings.archive, lambda: pool.living) if recording else None
    runner = _runner(pool, sampler, renderer, recorder)
    header = open_header(
        (marker,),
        chosen,
        identity=identify(),
        config_hash=generation.loaded.hash,
        now_s=time.time(),
        owner=owner_of(marker, generation.settings.owners),
        labels=generation.loaded.config.labels,
    )

    def task() -> Task[Done]:
        outcome = yield from runner.incident(header, chosen, generation.settings)
        if left:
            yield from seal_left(pool, generation.settings.archive)
        if outcome.incident is not None and not pool.stopping:
            yield from prune(pool, generation, spare=outcome.incident)
            yield from add_digests(pool, generation, outcome.incident)
        return outcome

    def stop(_: int) -> None:
        """End the running step on Ctrl-C; what was collected is sealed. A second Ctrl-C changes nothing."""
        if not pool.stopping:
            renderer.stopping()
        pool.stop(time.monotonic() + STOP_GRACE_S)

    with on_signal(stop):
        outcome = drive(recorded(task(), recorder) if recorder else task())
    pool.close()
    return renderer.reply(reply_of(outcome))


def _runner(pool: Pool, sampler: Sampler, renderer: Renderer, recorder: Recorder | None) -> Runner:
    if recorder is None:
        return Runner(pool, sampler, renderer.event)
    note = recorder.note

    def report(event: events.AnyEvent) -> None:
        note(event)
        renderer.event(event)

    return Runner(pool, sampler, report, recorder.mark)
