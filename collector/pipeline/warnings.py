"""What is legal in a configuration, but would do harm, or nothing at all. Pure: see `surroundings`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from collector.config.nodes import Path
from collector.model.diagnostics import Diagnostic, Mark, Severity
from collector.model.pressure import Policy
from collector.model.units import format_bytes, format_seconds, mib, quote, size
from collector.pipeline.compile import MANUAL_PIPELINE, Plan
from collector.pipeline.machine_facts import Place, Surroundings
from collector.pipeline.steps import Pipeline, Step


def harms(plan: Plan[Any], around: Surroundings) -> tuple[Diagnostic, ...]:
    """Return warnings about *plan* on the machine that *around* describes, in the order of the file."""
    found = (
        *plan.warnings,
        *_archive(plan, around),
        *_pressure(plan),
        *_copy(plan),
        *_unmatched(plan, around),
        *_whole(plan),
        *(problem for pipeline in plan.pipelines.values() for problem in _pipeline(plan, pipeline, around)),
        *(_warning(Mark(file), why, "chmod go-w, chown root") for file, why in around.unsafe_files.items()),
    )
    order = plan.loaded.files
    return tuple(sorted(found, key=lambda p: (order.index(p.mark.file) if p.mark.file in order else 0, p.mark.line)))


def _archive(plan: Plan[Any], around: Surroundings) -> Iterator[Diagnostic]:
    archive = around.archive
    mark = _mark(plan, ("archive", "path"))
    if archive.in_memory:
        yield _warning(
            mark,
            f"{quote(archive.path)} is on {archive.kind}: what is archived there takes the memory that is short",
            "choose a directory on a disk; every step will be skipped on this one",
        )
    if archive.problem:
        yield _warning(
            mark, f"{quote(archive.path)} cannot be used: {archive.problem}", "create it, or correct the path"
        )
    if around.runtime.problem:
        yield _warning(
            _mark(plan, ("runtime", "directory")),
            f"{quote(around.runtime.path)} cannot be used: {around.runtime.problem}",
            "systemd makes it for the service; by hand, create it with mode 0700",
        )
    reserve = _reserve(plan, archive)
    if archive.free_bytes < reserve:
        yield _warning(
            _mark(plan, ("archive", "reserve")),
            f"the file system has {size(archive.free_bytes)} free, less than its reserve of {size(reserve)}",
            "every step will be skipped until there is more room",
        )


def _pressure(plan: Plan[Any]) -> Iterator[Diagnostic]:
    pressure = plan.loaded.config.pressure
    if pressure.on_pressure is Policy.PROCEED:
        yield _proceed(_mark(plan, ("pressure", "on_pressure")))


def _proceed(mark: Mark) -> Diagnostic:
    return _warning(mark, "`proceed` collects on a starving machine and may stop it", "write wait or skip")


def _copy(plan: Plan[Any]) -> Iterator[Diagnostic]:
    if plan.loaded.config.copy.rate == "max":
        yield _warning(
            _mark(plan, ("copy", "rate")),
            "at `max` every other writer of the disk waits for the copy",
            "write adaptive",
        )


def _unmatched(plan: Plan[Any], around: Surroundings) -> Iterator[Diagnostic]:
    for path, text in around.unmatched.items():
        yield _warning(_mark(plan, path), f"{quote(text)} matches nothing today", "see that it is spelled right")


def _whole(plan: Plan[Any]) -> Iterator[Diagnostic]:
    if not plan.triggers:
        yield _warning(
            _mark(plan, ("triggers",)),
            "no trigger is on: the daemon would wait for nothing",
            "add one under `triggers`",
        )
    if MANUAL_PIPELINE not in plan.pipelines:
        yield _warning(
            _mark(plan, ("pipelines",)),
            f"there is no pipeline {MANUAL_PIPELINE!r}: `collector run --now` needs --pipeline",
            f"name the one for it {MANUAL_PIPELINE}",
        )


def _pipeline(plan: Plan[Any], pipeline: Pipeline, around: Surroundings) -> Iterator[Diagnostic]:
    given = plan.loaded.config.pipelines[pipeline.name].steps
    indices = {step.id: index for index, step in enumerate(given)}
    for step in pipeline.steps:
        path: Path = ("pipelines", pipeline.name, "steps", indices[step.id])
        own = given[indices[step.id]]
        yield from _room(plan, step, path, around)
        if own.pressure and own.pressure.on_pressure is Policy.PROCEED:
            yield _proceed(_mark(plan, (*path, "pressure", "on_pressure")))
        if own.timeout is not None and own.timeout > pipeline.timeout_s:
            yield _warning(
                _mark(plan, (*path, "timeout")),
                f"step {step.id} may take {format_seconds(own.timeout)}, but its pipeline ends after"
                f" {format_seconds(pipeline.timeout_s)}",
                "raise the pipeline's timeout",
            )


def _room(plan: Plan[Any], step: Step, path: Path, around: Surroundings) -> Iterator[Diagnostic]:
    """Warn of a step that this machine has no room for, whatever happens."""
    floor, budget = step.limits.floor_bytes, step.budget.memory_bytes
    if floor and floor + budget > around.sample.total_bytes:
        yield _warning(
            _floor_mark(plan, path),
            f"step {step.id} can never run here: its budget of {format_bytes(budget)} beside a floor"
            f" of {format_bytes(floor)} is more than all memory ({mib(around.sample.total_bytes)})",
            "lower the floor",
        )
    elif floor and floor + budget > around.sample.available_bytes:
        yield _warning(
            _floor_mark(plan, path),
            f"step {step.id} would be held back now: of {mib(around.sample.available_bytes)} available its budget of"
            f" {format_bytes(budget)} leaves less than the floor of {format_bytes(floor)}",
            "lower the floor, if this machine is always so full",
        )
    most = getattr(step.collector, "max_total", None)
    room = around.archive.total_bytes - _reserve(plan, around.archive)
    if most is not None and most > room:
        yield _warning(
            _mark(plan, (*path, "with", "max_total")),
            f"step {step.id} may take {format_bytes(most)}, but the archive's file system holds {size(room)} at most",
            "lower max_total, or use a larger disk",
        )


def _floor_mark(plan: Plan[Any], path: Path) -> Mark:
    """Return the place of the floor that holds for the step at *path*."""
    places = ((*path, "pressure", "floor"), ("defaults", "pressure", "floor"), ("pressure", "floor"))
    return _mark(plan, next((place for place in places if place in plan.loaded.origins), path))


def _reserve(plan: Plan[Any], archive: Place) -> int:
    return plan.loaded.config.archive.reserve.bytes_of(archive.total_bytes)


def _mark(plan: Plan[Any], path: Path) -> Mark:
    """Return the place of *path*, or of what it would stand in if it is not there."""
    origins = plan.loaded.origins
    while path not in origins:
        path = path[:-1]
    mark = origins[path]
    return mark if path else Mark(plan.loaded.source, 1, 1)


def _warning(mark: Mark, message: str, hint: str) -> Diagnostic:
    return Diagnostic(mark=mark, message=message, hint=hint, severity=Severity.WARNING)
