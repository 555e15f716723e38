"""One generation of the configuration, ready to run: a reload makes a new one, an incident keeps its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collector.archive.retention import Rules
from collector.config.directories import effective_archive_path, effective_runtime_directory
from collector.config.load import Loaded
from collector.config.spec import Config
from collector.model.diagnostics import Diagnostic
from collector.model.errors import UsageError
from collector.pipeline.compile import MANUAL_PIPELINE, prepare
from collector.pipeline.run_types import RunSettings, WorkerSettings
from collector.pipeline.steps import CompiledTrigger, Pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a configuration comes to on this machine, for this user."""

    loaded: Loaded
    pipelines: dict[str, Pipeline]
    triggers: tuple[CompiledTrigger[Any], ...]
    settings: RunSettings
    keep: Rules
    warnings: tuple[Diagnostic, ...]
    runtime_directory: str

    @property
    def worker(self) -> WorkerSettings:
        """What workers of this generation do at their start."""
        runtime = self.loaded.config.runtime
        return WorkerSettings(nice=runtime.nice, io_class=runtime.ionice)

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


def retention(config: Config) -> Rules:
    """Return the section `archive.keep` as retention takes it."""
    keep = config.archive.keep
    return Rules(count=keep.count, age_s=keep.age, size_bytes=keep.size)


def generate(path: str | None, triggers: Mapping[str, type[Any]], *, archive: str | None = None) -> Generation:
    """
    Load and compile a configuration.

    Args:
        path: The file; ``None`` for the packaged default.
        triggers: The kinds of triggers by name (``TRIGGERS``; this package lies below theirs).
        archive: Overrides ``archive.path``.

    Raises:
        ConfigError: With every problem found.
    """
    plan = prepare(path, triggers)
    config = plan.loaded.config
    is_root = os.geteuid() == 0
    return Generation(
        loaded=plan.loaded,
        pipelines=plan.pipelines,
        triggers=plan.triggers,
        settings=RunSettings(
            archive=os.path.abspath(archive or effective_archive_path(config, is_root=is_root, environ=os.environ)),
            reserve=config.archive.reserve,
            copy=config.copy.settings(),
            redaction=config.redact,
        ),
        keep=retention(config),
        warnings=plan.warnings,
        runtime_directory=effective_runtime_directory(config, is_root=is_root, environ=os.environ),
    )
