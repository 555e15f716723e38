"""Opening an incident: from markers to its header and the steps that it will run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from collector import __version__
from collector.archive.layout import new_id
from collector.host.identity import Identity
from collector.model.errors import UsageError
from collector.model.incident import MANIFEST_VERSION, Header
from collector.model.marker import Marker
from collector.pipeline.steps import Pipeline, Step


def open_header(
    markers: tuple[Marker, ...], pipeline: Pipeline, *, identity: Identity, config_hash: str, now_s: float
) -> Header:
    """
    Return the header of a new incident.

    Args:
        markers: At least one.
        pipeline: What will run; its steps are the ones the manifest must account for.
        identity: The machine.
        config_hash: Of the configuration in force.
        now_s: Wall clock, seconds since the epoch.
    """
    return Header(
        version=MANIFEST_VERSION,
        id=new_id(now_s),
        pipeline=pipeline.name,
        markers=markers,
        host=identity.host,
        boot_id=identity.boot_id,
        kernel=identity.kernel,
        collector_version=__version__,
        config_hash=config_hash,
        started_s=now_s,
        planned=tuple(step.id for step in pipeline.steps),
        optional=tuple(step.id for step in pipeline.steps if not step.required),
    )


def meant_for(pipeline: Pipeline, marker: Marker) -> Pipeline:
    """Return *pipeline* without the steps whose conditions *marker* does not meet."""
    return dataclasses.replace(
        pipeline, steps=tuple(step for step in pipeline.steps if step.when.holds(marker) is None)
    )


def narrow(pipeline: Pipeline, only: Collection[str]) -> Pipeline:
    """
    Return *pipeline* with none but the steps named, by id or by collector; all of them if *only* is empty.

    Raises:
        UsageError: If it has no step of that name.
    """
    known = [step.id for step in pipeline.steps]
    if unknown := [name for name in only if not any(_is(step, name) for step in pipeline.steps)]:
        raise UsageError(
            f"pipeline {pipeline.name!r} has no step {unknown[0]!r}", hint=f"its steps are {', '.join(known)}"
        )
    if not only:
        return pipeline
    steps = tuple(step for step in pipeline.steps if any(_is(step, name) for name in only))
    return dataclasses.replace(pipeline, steps=steps)


def _is(step: Step, name: str) -> bool:
    return name in (step.id, step.collector.name)
