"""The header of a new incident."""

from __future__ import annotations

from collector import __version__
from collector.archive.layout import new_id
from collector.host.identity import MachineIdentity
from collector.model.incident import MANIFEST_VERSION, Header
from collector.model.marker import Marker
from collector.pipeline.steps import Pipeline


def open_header(
    markers: tuple[Marker, ...], pipeline: Pipeline, *, identity: MachineIdentity, config_hash: str, now_s: float
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
