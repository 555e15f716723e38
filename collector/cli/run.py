"""``collector run``: the straight line, by hand."""

from __future__ import annotations

import os
import time

import click

from collector.cli.config_explain import show_forecast
from collector.cli.delegate import by_daemon
from collector.cli.leftovers import check_may_make, seal_left, unfinished
from collector.cli.options import archive_option, config_option, json_option
from collector.cli.render import Renderer
from collector.cli.signals import heeded
from collector.config.load import find
from collector.daemon.messages import RunRequest, reply_of
from collector.host.identity import identify
from collector.model.errors import UsageError
from collector.model.marker import Marker, ProcessRef
from collector.pipeline.generation import Generation, generate
from collector.pipeline.steps import Pipeline, select_steps, steps_for
from collector.pressure.sampler import Sampler
from collector.runner.coroutine import Task, drive
from collector.runner.housekeeping import add_digests, prune
from collector.runner.incident_run import open_header
from collector.runner.pool import Pool
from collector.runner.protocol import Done
from collector.runner.runner import Runner
from collector.triggers.manual import find_processes, manual_marker
from collector.triggers.registry import TRIGGERS

STOP_GRACE_S = 5.0
"""How long the running step may go on after Ctrl-C."""


@click.command("run")
@click.option("--now", is_flag=True, help="Collect now; required, so that nobody collects by a typing error.")
@click.option("--pipeline", metavar="NAME", help="Pipeline to run [crash].")
@click.option("--reason", metavar="TEXT", default="", help="Why; goes into the manifest.")
@click.option("--pid", "pids", metavar="PID", type=int, multiple=True, help="A live process to look at closely.")
@click.option(
    "--only", metavar="STEP", multiple=True, help="Run only this step, by id or collector; may be given again."
)
@click.option("--dry-run", is_flag=True, help="Show what would run and what the gate says now; write nothing.")
@archive_option
@config_option
@json_option
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
    Open an incident by hand and wait until it is archived.

    A running daemon does the work with its warm workers, unless --archive or --config names
    something else than its own.
    """
    if not now and not dry_run:
        raise UsageError("nothing was run", hint="say `collector run --now`, or --dry-run to see what it would do")
    processes = find_processes(pids)
    generation = generate(find(config), TRIGGERS, archive=archive)
    if dry_run:
        marker = manual_marker(reason, processes, uid=os.getuid())
        return show_forecast(generation, _chosen(generation, pipeline, only, marker), marker, as_json=as_json)
    with Renderer(as_json=as_json) as renderer:
        request = RunRequest(pipeline=pipeline, reason=reason, processes=processes, only=only)
        named = archive is not None or config is not None
        status = by_daemon(generation, request, renderer, named=named)
        if status is not None:
            return status
        return _here(generation, renderer, pipeline=pipeline, reason=reason, processes=processes, only=only)


def _chosen(generation: Generation, pipeline: str | None, only: tuple[str, ...], marker: Marker) -> Pipeline:
    """
    Return the steps that a run by hand takes: those asked for whose conditions its marker meets.

    Raises:
        UsageError: If there are none.
    """
    asked = select_steps(generation.pipeline(pipeline), only)
    chosen = steps_for(asked, marker)
    if not chosen.steps:
        names = ", ".join(step.id for step in asked.steps)
        raise UsageError(
            f"nothing to run by hand: {names} has a `when` that only a crash meets",
            hint="`collector config explain` tells when each step runs",
        )
    return chosen


def _here(
    generation: Generation,
    renderer: Renderer,
    *,
    pipeline: str | None,
    reason: str,
    processes: tuple[ProcessRef, ...],
    only: tuple[str, ...],
) -> int:
    check_may_make(generation.settings.archive)
    left = unfinished(generation.settings.archive)
    marker = manual_marker(reason, processes, uid=os.getuid())
    chosen = _chosen(generation, pipeline, only, marker)
    pool = Pool(generation.loaded.config.runtime.workers, generation.loaded.config.runtime)
    pool.fill()
    runner = Runner(pool, Sampler(), renderer.event)
    header = open_header((marker,), chosen, identity=identify(), config_hash=generation.loaded.hash, now_s=time.time())

    def run() -> Task[Done]:
        outcome = yield from runner.incident(header, chosen, generation.settings)
        if left:
            yield from seal_left(pool, generation.settings.archive)
        if outcome.incident is not None and not pool.stopping:
            yield from prune(pool, generation, spare=outcome.incident)
            yield from add_digests(pool, generation, outcome.incident)
        return outcome

    # Ctrl-C ends the running step and seals what there is; a second one within the grace changes nothing.
    with heeded(lambda _: pool.stop(time.monotonic() + STOP_GRACE_S)):
        outcome = drive(run())
    pool.close()
    return renderer.reply(reply_of(outcome))
