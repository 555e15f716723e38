"""One generation of the configuration, ready to run: a reload creates a new one, an incident keeps its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from collector.config.directories import effective_archive_path, effective_runtime_directory
from collector.host.files import Host
from collector.host.subordinates import owners
from collector.model.copying import CopySettings
from collector.model.errors import UsageError
from collector.model.owners import Owners
from collector.model.recording import RecorderSettings
from collector.model.redaction import Redaction
from collector.model.retention import RetentionRules
from collector.model.units import Reserve
from collector.pipeline.compile import MANUAL_PIPELINE, Plan, draft, prepare
from collector.pipeline.steps import Pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """
    What all incidents of one generation of the configuration share.

    *keep* is what the archive's retention keeps; *watches_cores*: a core may arrive later; *owners*: the users;
    *hands_over*: incidents are to be handed over once they are archived.
    """

    archive: str
    reserve: Reserve
    copy: CopySettings
    redaction: Redaction
    keep: RetentionRules = field(default_factory=RetentionRules)
    watches_cores: bool = False
    owners: Owners = field(default_factory=Owners)
    hands_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Plan[Any]):
    """A compiled configuration with what depends on this machine and this user."""

    settings: RunSettings
    runtime_directory: str
    recorder: RecorderSettings

    def pipeline(self, name: str | None) -> Pipeline:
        """
        Return the pipeline of that name; without one, that of ``run --now``.

        Raises:
            UsageError: If there is none.
        """
        name = name or MANUAL_PIPELINE
        if name not in self.pipelines:
            raise UsageError(f"there is no pipeline {name!r}", hint=f"there are {', '.join(sorted(self.pipelines))}")
        return self.pipelines[name]


def generate(path: str | None, triggers: Mapping[str, type[Any]], *, archive: str | None = None) -> Generation:
    """Load and compile a configuration, as `prepare` does; *archive* overrides ``archive.path``."""
    return _on_this_machine(prepare(path, triggers), archive)


def generate_leniently(path: str | None, triggers: Mapping[str, type[Any]]) -> Generation:
    """Do the same with what can be read and compiled; mistakes are among the *warnings*. Raise as `draft` does."""
    return _on_this_machine(draft(path, triggers), None)


def _on_this_machine(plan: Plan[Any], archive: str | None) -> Generation:
    config = plan.loaded.config
    is_root = os.geteuid() == 0
    return Generation(
        loaded=plan.loaded,
        pipelines=plan.pipelines,
        triggers=plan.triggers,
        settings=RunSettings(
            archive=os.path.abspath(archive or effective_archive_path(config, is_root=is_root, environ=os.environ)),
            reserve=config.archive.reserve,
            copy=config.copy,
            redaction=config.redact,
            keep=config.archive.keep,
            watches_cores=any(trigger.trigger.name == "core_files" for trigger in plan.triggers),
            owners=owners(Host(), frozenset(config.storm.units)),
            hands_over=bool(config.on_archived.argv),
        ),
        warnings=plan.warnings,
        notes=plan.notes,
        recorder=config.recorder,
        runtime_directory=effective_runtime_directory(config, is_root=is_root, environ=os.environ),
    )
