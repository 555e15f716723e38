"""What `collector doctor` checks once the configuration is read and the daemon was asked, both once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from collector.cli.check import Check
from collector.cli.doctor_boot import lasting
from collector.cli.doctor_configuration import archive, configuration, configured, incidents, metrics
from collector.cli.doctor_core_directory import core_directory
from collector.cli.doctor_core_pattern import kernel_cores
from collector.cli.doctor_cores import cores
from collector.cli.doctor_crashes import crashes
from collector.cli.doctor_daemon import daemon
from collector.cli.doctor_gate import pressure
from collector.cli.guarded import guarded
from collector.config.load import find
from collector.daemon.messages import Status
from collector.daemon.requests import status_of
from collector.model.errors import CollectorError
from collector.pipeline.generation import Generation


class Situation(NamedTuple):
    """The configuration, as far as it can be read, with its *mistakes*; the daemon's *answer*, or why there is none."""

    generation: Generation
    mistakes: tuple[Check, ...]
    answer: Status | CollectorError

    @property
    def status(self) -> Status | None:
        """The daemon's status, if it answered."""
        return self.answer if isinstance(self.answer, Status) else None


def situation_of(config: str | None, *, patience_s: float) -> Situation:
    """Read the configuration and ask the daemon, which may take *patience_s*."""
    generation, mistakes = configured(find(config))
    try:
        answer: Status | CollectorError = status_of(generation.runtime_directory, patience_s=patience_s)
    except CollectorError as exc:
        answer = exc
    return Situation(generation, mistakes, answer)


def probe_all(situation: Situation) -> Iterator[Check]:
    """Yield the checks; none keeps the others from running."""
    generation = situation.generation
    yield from situation.mistakes
    for about_archive in (configuration, archive, incidents, metrics):
        yield from guarded(about_archive, generation)
    yield from guarded(cores, generation)
    yield from guarded(core_directory, generation)
    yield from guarded(kernel_cores, generation, status=situation.status)
    yield from guarded(lasting, generation)
    yield from guarded(crashes, generation, status=situation.status)
    yield from guarded(daemon, generation, situation.answer)
    yield from guarded(pressure, generation)
