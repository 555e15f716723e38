"""Warnings about what is legal but harmful or without effect. Pure: `machine_facts` looks at the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.core.dump_content import CoreCompression, CoreContent
from collector.config.load import in_order
from collector.config.nodes import Path
from collector.model.diagnostics import Diagnostic, Mark, Severity
from collector.model.pressure import Policy
from collector.model.units import format_bytes, format_seconds, mib, quote, size
from collector.pipeline.compile import MANUAL_PIPELINE, Plan
from collector.pipeline.condition_warnings import doubtful_conditions
from collector.pipeline.machine_facts import MachineFacts, Place
from collector.pipeline.over_budget import without_bulk
from collector.pipeline.steps import Pipeline, Step


def warnings_of(plan: Plan[Any], facts: MachineFacts | None) -> tuple[Diagnostic, ...]:
    """
    Return the warnings about *plan*, in the order of the file.

    *facts* are about the machine that it is for; ``None``: it is judged by itself, as in a repository of files.
    """
    found = [
        *plan.warnings,
        *_sections(plan),
        *_unreachable(plan),
        *_second_owners(plan),
        *_not_kept(plan),
        *(warning for pipeline in plan.pipelines.values() for warning in _pipeline(plan, pipeline)),
        *(_warning(_mark(plan, doubt.path), doubt.message, doubt.hint) for doubt in doubtful_conditions(plan)),
    ]
    if facts is not None:
        found += _of_machine(plan, facts)
    return in_order(found, plan.loaded.files)


def notes_of(plan: Plan[Any], facts: MachineFacts | None) -> tuple[Diagnostic, ...]:
    """Return what readers may not expect of *plan*, and what the machine lacks at the moment or may never need."""
    found = [*plan.notes]
    if facts is not None:
        for path, text in facts.unmatched.items():
            found.append(
                _note(_mark(plan, path), f"{quote(text)} matches nothing at present", "see that it is spelt right")
            )
        for step, path in _steps(plan):
            found += _little_room(plan, step, path, facts)
    return in_order(found, plan.loaded.files)


def _of_machine(plan: Plan[Any], facts: MachineFacts) -> Iterator[Diagnostic]:
    """Yield what is wrong with *plan* on the machine of *facts*."""
    yield from archive_warnings(plan, facts)
    if facts.runtime.problem:
        yield _warning(
            _mark(plan, ("runtime", "directory")),
            f"{quote(facts.runtime.path)} cannot be used: {facts.runtime.problem}",
            "systemd creates it for the service; by hand, create it with mode 0700",
        )
    for step, path in _steps(plan):
        yield from _no_room(plan, step, path, facts)
    for path, text in facts.bad_programs.items():
        yield _warning(_mark(plan, path), text, "install it, owned by root and writable by nobody else")
    for file, why in facts.unsafe_files.items():
        yield _warning(Mark(file), why, "chmod go-w, chown root")


def archive_warnings(plan: Plan[Any], facts: MachineFacts) -> Iterator[Diagnostic]:
    """Yield what keeps incidents from being archived on this machine."""
    archive = facts.archive
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
    reserve = _reserve(plan, archive)
    if archive.free_bytes < reserve:
        yield _warning(
            _mark(plan, ("archive", "reserve")),
            f"the file system has {size(archive.free_bytes)} free, less than its reserve of {size(reserve)}",
            "every step will be skipped until there is more room",
        )


def _sections(plan: Plan[Any]) -> Iterator[Diagnostic]:
    """Yield what is wrong outside the pipelines."""
    if plan.loaded.config.pressure.on_pressure is Policy.PROCEED:
        yield _proceed(_mark(plan, ("pressure", "on_pressure")))
    if plan.loaded.config.copy.rate == "max":
        yield _warning(
            _mark(plan, ("copy", "rate")),
            "at `max` every other writer of the disk waits for the copy",
            "write adaptive",
        )
    beyond = plan.loaded.config.storm.over_budget.pipeline
    brief = plan.pipelines.get(beyond or "")  # of a draft, one that is misspelt is a mistake already
    bulk = [step.id for step in brief.steps if without_bulk(step) is None] if brief is not None else []
    if bulk:
        yield _warning(
            _mark(plan, ("storm", "over_budget", "pipeline")),
            f"of pipeline {beyond}, {', '.join(bulk)} never runs for crashes over their budget: nothing is copied then",
            "name one without such steps, or leave it so",
        )
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


def _unreachable(plan: Plan[Any]) -> Iterator[Diagnostic]:
    """Yield options of `notify` that let in users whom the directory of its socket keeps out."""
    running = {one.id: one.trigger for one in plan.triggers if one.trigger.name == "notify"}
    for index, given in enumerate(plan.loaded.config.triggers):
        trigger = running.get(given.id)
        if trigger is None or trigger.socket:
            continue
        for key, lets_in in (
            ("uids", any(trigger.uids)),  # root reaches it anyhow
            ("group", trigger.group),
            ("unprivileged", trigger.unprivileged == "attribute"),
        ):
            if lets_in:
                yield _warning(
                    _mark(plan, ("triggers", index, key)),
                    f"`{key}` lets nobody else in: the socket is in the runtime directory, which only root can enter",
                    "name a `socket` elsewhere, such as /run/collector-notify.sock",
                )


def _second_owners(plan: Plan[Any]) -> Iterator[Diagnostic]:
    """Yield each further trigger that wants the kernel's cores: there is one ``core_pattern``."""
    running = {one.id for one in plan.triggers if one.trigger.name == "kernel_cores"}
    places = [index for index, given in enumerate(plan.loaded.config.triggers) if given.id in running]
    for index in places[1:]:
        given = plan.loaded.config.triggers
        yield _warning(
            _mark(plan, ("triggers", index)),
            f"trigger {given[index].id} gets no crash: the kernel hands them to one only, {given[places[0]].id}",
            "keep one of them",
        )


def _not_kept(plan: Plan[Any]) -> Iterator[Diagnostic]:
    """Yield triggers that are to remove cores which their pipeline does not archive: nothing would be removed."""
    running = {one.id: one for one in plan.triggers if one.trigger.name == "core_files"}
    for index, given in enumerate(plan.loaded.config.triggers):
        one = running.get(given.id)
        if one is None or (one.trigger.remove == "never" and one.trigger.size is None):
            continue
        if (pipeline := plan.pipelines.get(one.pipeline)) is None:  # of a draft, as above
            continue
        steps = (step.collector for step in pipeline.steps)
        if not any(isinstance(step, Core) and step.keep is not KeepCore.NONE for step in steps):
            key = "remove" if one.trigger.remove != "never" else "size"
            yield _warning(
                _mark(plan, ("triggers", index, key)),
                f"`{key}` removes nothing: the pipeline {one.pipeline} archives no core",
                "add a step `collector: core` to it, with `keep: auto`",
            )


def _proceed(mark: Mark) -> Diagnostic:
    return _warning(mark, "`proceed` collects on a starving machine and may bring it to a halt", "write wait or skip")


def _steps(plan: Plan[Any]) -> Iterator[tuple[Step, Path]]:
    """Yield all steps that are on, with their places in the file."""
    for name, pipeline in plan.pipelines.items():
        indices = {given.id: index for index, given in enumerate(plan.loaded.config.pipelines[name].steps)}
        for step in pipeline.steps:
            yield step, ("pipelines", name, "steps", indices[step.id])


def _pipeline(plan: Plan[Any], pipeline: Pipeline) -> Iterator[Diagnostic]:
    given = plan.loaded.config.pipelines[pipeline.name].steps
    indices = {step.id: index for index, step in enumerate(given)}
    for step in pipeline.steps:
        path: Path = ("pipelines", pipeline.name, "steps", indices[step.id])
        own = given[indices[step.id]]
        if own.pressure and own.pressure.on_pressure is Policy.PROCEED:
            yield _proceed(_mark(plan, (*path, "pressure", "on_pressure")))
        if isinstance(step.collector, Core):
            yield from _uncompressed(plan, step.collector, path)
        if own.timeout is not None and own.timeout > pipeline.timeout_s:
            yield _warning(
                _mark(plan, (*path, "timeout")),
                f"step {step.id} may take {format_seconds(own.timeout)}, but its pipeline ends after"
                f" {format_seconds(pipeline.timeout_s)}",
                "raise the pipeline's timeout",
            )


def _uncompressed(plan: Plan[Any], core: Core, path: Path) -> Iterator[Diagnostic]:
    """Warn of a compression that nothing comes of."""
    if core.content is not CoreContent.FULL and core.compress is not CoreCompression.NONE:
        yield _warning(
            _mark(plan, (*path, "with", "compress")),
            f"`compress` has no effect with `content: {core.content}`: only a full core is compressed",
            "leave it out",
        )


def _no_room(plan: Plan[Any], step: Step, path: Path, facts: MachineFacts) -> Iterator[Diagnostic]:
    """Yield a step that this machine has no memory for."""
    floor, budget = step.limits.floor_bytes, step.budget.memory_bytes
    if floor and floor + budget > facts.sample.total_bytes:
        yield _warning(
            _floor_mark(plan, path),
            f"step {step.id} can never run here: its budget of {format_bytes(budget)} beside a floor"
            f" of {format_bytes(floor)} is more than all memory ({mib(facts.sample.total_bytes)})",
            "lower the floor",
        )


def _little_room(plan: Plan[Any], step: Step, path: Path, facts: MachineFacts) -> Iterator[Diagnostic]:
    """Yield a step for which there is too little memory now, or that may be cut short by the disk."""
    floor, budget = step.limits.floor_bytes, step.budget.memory_bytes
    if floor and facts.sample.available_bytes < floor + budget <= facts.sample.total_bytes:
        yield _note(
            _floor_mark(plan, path),
            f"step {step.id} would be held back now: of {mib(facts.sample.available_bytes)} available its budget of"
            f" {format_bytes(budget)} leaves less than the floor of {format_bytes(floor)}",
            "lower the floor, if this machine is always so full",
        )
    most = getattr(step.collector, "max_total", None)
    room = facts.archive.total_bytes - _reserve(plan, facts.archive)
    if most is not None and most > room:
        yield _note(
            _mark(plan, (*path, "with", "max_total")),
            f"step {step.id} may take {format_bytes(most)}, but the archive's file system has room for {size(room)}",
            "lower max_total, or use a larger disk",
        )


def _floor_mark(plan: Plan[Any], path: Path) -> Mark:
    """Return the place of the floor that applies to the step at *path*."""
    places = ((*path, "pressure", "floor"), ("defaults", "pressure", "floor"), ("pressure", "floor"))
    return _mark(plan, next((place for place in places if place in plan.loaded.origins), path))


def _reserve(plan: Plan[Any], archive: Place) -> int:
    return plan.loaded.config.archive.reserve.bytes_of(archive.total_bytes)


def _mark(plan: Plan[Any], path: Path) -> Mark:
    """Return the place of *path*, or of the nearest section above it that the file has."""
    origins = plan.loaded.origins
    while path not in origins:
        path = path[:-1]
    mark = origins[path]
    return mark if path else Mark(plan.loaded.source, 1, 1)


def _warning(mark: Mark, message: str, hint: str) -> Diagnostic:
    return Diagnostic(mark=mark, message=message, hint=hint, severity=Severity.WARNING)


def _note(mark: Mark, message: str, hint: str) -> Diagnostic:
    return Diagnostic(mark=mark, message=message, hint=hint, severity=Severity.NOTE)
